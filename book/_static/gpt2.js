// A GPT-2 in the reader's browser, without a server: its weights are 8-bit integers with a scale for each row, as
// `titlesmith.book.writer` packs them. The model's file is a script, because pages from a folder may not read other
// files.
"use strict";
(() => {
  const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu; // as GPT-2 splits text
  const NEGLIGIBLE = 20; // a token that is e^20 times less likely than the likeliest is never sampled

  // GPT-2's characters for bytes: printable ones for themselves, the others from U+0100
  const CHARACTERS = [];
  for (let byte = 0, next = 256; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    CHARACTERS.push(String.fromCharCode(printable ? byte : next++));
  }
  const BYTES = new Map(CHARACTERS.map((character, byte) => [character, byte]));
  const spell = (text) => Array.from(new TextEncoder().encode(text), (byte) => CHARACTERS[byte]).join("");
  const read = (spelled) => new TextDecoder().decode(Uint8Array.from(spelled, (character) => BYTES.get(character)));

  const unpack = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

  function crc32(bytes) {
    let crc = -1;
    for (const byte of bytes) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc >>> 0;
  }

  class Model {
    constructor(buffer) {
      const size = new Uint32Array(buffer, 0, 1)[0];
      Object.assign(this, JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size))));
      let offset = 4 + size;
      this.arrays = {};
      for (const [name, kind, length] of this.layout) {
        const type = { float32: Float32Array, int8: Int8Array, uint32: Uint32Array }[kind];
        this.arrays[name] = new type(buffer, offset, length);
        offset += length * type.BYTES_PER_ELEMENT;
      }
      const { n_layer: layers, n_ctx: context, n_embd: width } = this.shape;
      this.ids = new Map(this.tokens.map((token, id) => [token, id]));
      this.ranks = new Map(this.merges.map((pair, rank) => [pair, rank]));
      this.cache = Array.from({ length: 2 * layers }, () => new Float32Array(context * width)); // keys and values
      this.hidden = new Float32Array(width);
    }

    /** Token ids of a word, spelled in GPT-2's characters. */
    merge(word) {
      const parts = Array.from(word);
      for (;;) {
        let best = Infinity, at = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
          if (rank < best) [best, at] = [rank, i];
        }
        if (at < 0) return parts.map((part) => this.ids.get(part));
        const [left, right] = [parts[at], parts[at + 1]];
        for (let i = at; i + 1 < parts.length; i++)
          if (parts[i] === left && parts[i + 1] === right) parts.splice(i, 2, left + right);
      }
    }

    encode(text) {
      return (text.match(WORDS) ?? []).flatMap((word) => this.merge(spell(word)));
    }

    /** y = scale * (W x) + bias, four rows of the matrix at a time, so that x is read once for them. */
    linear(name, x, y) {
      const [w, scale, bias] = [this.arrays[name], this.arrays[`${name}/scale`], this.arrays[name.replace(/w$/, "b")]];
      const size = x.length, rows = y.length;
      for (let row = 0; row < rows; row += 4) {
        const one = Math.min(row + 1, rows - 1), two = Math.min(row + 2, rows - 1), three = Math.min(row + 3, rows - 1);
        const p = row * size, q = one * size, r = two * size, s = three * size;
        let a = 0, b = 0, c = 0, d = 0;
        for (let i = 0; i < size; i++) {
          const value = x[i];
          a += w[p + i] * value;
          b += w[q + i] * value;
          c += w[r + i] * value;
          d += w[s + i] * value;
        }
        y[row] = a * scale[row];
        y[one] = b * scale[one];
        y[two] = c * scale[two];
        y[three] = d * scale[three];
      }
      if (bias !== w) for (let row = 0; row < rows; row++) y[row] += bias[row];
      return y;
    }

    normalize(name, x) {
      const [gain, bias] = [this.arrays[`${name}/g`], this.arrays[`${name}/b`]];
      const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
      const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
      const factor = 1 / Math.sqrt(variance + 1e-5);
      return x.map((value, i) => (value - mean) * factor * gain[i] + bias[i]);
    }

    /** Reads a token at a position; the keys and values of the positions before it are those of earlier calls. */
    feed(id, position) {
      const { n_layer: layers, n_embd: width } = this.shape;
      const { "model/wte": wte, "model/wpe": wpe, "model/wte/scale": ts, "model/wpe/scale": ps } = this.arrays;
      const x = new Float32Array(width);
      for (let i = 0; i < width; i++) x[i] = wte[id * width + i] * ts[id] + wpe[position * width + i] * ps[position];
      const add = (change) => change.forEach((value, i) => { x[i] += value; });
      for (let layer = 0; layer < layers; layer++) {
        const name = `model/h${layer}`;
        const qkv = this.linear(`${name}/attn/c_attn/w`, this.normalize(`${name}/ln_1`, x), new Float32Array(3 * width));
        const [keys, values] = this.cache.slice(2 * layer, 2 * layer + 2);
        keys.set(qkv.subarray(width, 2 * width), position * width);
        values.set(qkv.subarray(2 * width), position * width);
        add(this.linear(`${name}/attn/c_proj/w`, this.attend(qkv, keys, values, position), new Float32Array(width)));
        const inner = this.linear(`${name}/mlp/c_fc/w`, this.normalize(`${name}/ln_2`, x), new Float32Array(4 * width));
        inner.forEach((v, i) => { inner[i] = 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))); });
        add(this.linear(`${name}/mlp/c_proj/w`, inner, new Float32Array(width)));
      }
      this.hidden = x;
    }

    attend(query, keys, values, position) {
      const { n_head: heads, n_embd: width } = this.shape;
      const size = width / heads;
      const result = new Float32Array(width), weights = new Float32Array(position + 1);
      for (let head = 0; head < width; head += size) {
        for (let at = 0; at <= position; at++) {
          let dot = 0;
          for (let i = head; i < head + size; i++) dot += query[i] * keys[at * width + i];
          weights[at] = dot / Math.sqrt(size);
        }
        const most = weights.reduce((a, b) => Math.max(a, b), -Infinity);
        const total = weights.reduce((sum, value, at) => sum + (weights[at] = Math.exp(value - most)), 0);
        for (let at = 0; at <= position; at++)
          for (let i = head; i < head + size; i++) result[i] += (weights[at] / total) * values[at * width + i];
      }
      return result;
    }

    /** Scores of all tokens after the last one that was read. */
    logits() {
      const result = new Float32Array(this.tokens.length);
      return this.linear("model/wte", this.normalize("model/ln_f", this.hidden), result);
    }

    logprobs() {
      const scores = this.logits();
      const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      const total = Math.log(scores.reduce((sum, value) => sum + Math.exp(value - most), 0)) + most;
      return scores.map((value) => value - total);
    }

    /** Reads tokens from a position on and returns the next one. */
    feedAll(ids, position) {
      ids.forEach((id, i) => this.feed(id, position + i));
      return position + ids.length;
    }

    /**
     * The ids that may spell a prefix: the last word is encoded in all ways of which a longer word may begin, each with
     * its log-probability, as `titlesmith.generate.token_healing` does.
     */
    heal(prefix) {
      const words = prefix.match(WORDS) ?? [];
      if (!words.length) return [{ ids: [], logprob: 0 }];
      const last = spell(words.at(-1)), head = words.slice(0, -1).flatMap((word) => this.merge(spell(word)));
      const opening = this.feedAll([...this.start, ...head], 0);
      const candidates = [];
      for (let from = 0; from < last.length; from++) {
        const begun = from ? this.merge(last.slice(0, from)) : [], rest = last.slice(from);
        const ends = [];
        this.tokens.forEach((token, id) => {
          if (!token.startsWith(rest) || id === this.eos) return;
          if (begun.length && this.merge(last.slice(0, from) + token).join() !== [...begun, id].join()) return;
          ends.push(id);
        });
        if (!ends.length) continue;
        // The probability of a candidate is the product of those of its ids
        let before = 0;
        this.feedAll(head.length ? [head.at(-1)] : [this.start.at(-1)], opening - 1);
        for (const [i, id] of begun.entries()) {
          before += this.logprobs()[id];
          this.feed(id, opening + i);
        }
        const next = this.logprobs();
        for (const id of ends) candidates.push({ ids: [...head, ...begun, id], logprob: before + next[id] });
      }
      return candidates;
    }

    /** The index of a sampled score. */
    sample(scores, temperature) {
      const most = scores.reduce((a, b) => Math.max(a, b), -Infinity), least = most - NEGLIGIBLE * temperature;
      const likely = [];
      for (let i = 0; i < scores.length; i++) if (scores[i] > least) likely.push(i);
      likely.sort((a, b) => scores[b] - scores[a]);
      const weights = likely.slice(0, this.top_k || likely.length).map((i) => Math.exp((scores[i] - most) / temperature));
      const total = weights.reduce((a, b) => a + b, 0);
      let end = 0, mass = 0;
      while (end < weights.length && mass < this.top_p * total) mass += weights[end++];
      let left = Math.random() * mass, chosen = 0;
      while (chosen < end - 1 && (left -= weights[chosen]) >= 0) chosen++;
      return likely[chosen];
    }

    /** One text that begins with a prefix to the letter, and whether it is finished and clean. */
    async write(prefix, candidates, temperature, breathe) {
      const scores = candidates.map((candidate) => candidate.logprob);
      const ids = candidates[this.sample(scores, temperature)].ids;
      let position = this.feedAll([...this.start, ...ids], 0);
      const end = Math.min(this.shape.n_ctx, position + this.max_tokens);
      const given = spell(this.lowercase ? prefix.toLowerCase() : prefix).length;
      let spelled = ids.map((id) => this.tokens[id]).join("");
      for (; position < end; position++) {
        const id = this.sample(this.logits(), temperature);
        if (id === this.eos) break;
        spelled += this.tokens[id];
        if (this.stop && spelled.includes(spell(this.stop))) break;
        this.feed(id, position);
        await breathe();
      }
      const rest = read(spelled.slice(given)).split(this.stop || "\0")[0];
      const text = prefix + (/\S$/.test(prefix) ? rest.trimEnd() : rest.trim());
      return { text, good: position < end && text.trim() !== "" && !/<\||\|>|\ufffd|\p{Cc}/u.test(rest) };
    }

    /** Whether a training text equals this one but for case and white space; wrong for few other texts. */
    isCopy(text) {
      const folded = text.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean).join(" ");
      return this.arrays.titles.includes(crc32(new TextEncoder().encode(folded)));
    }
  }

  window.titlesmithGPT2 = { Model, unpack };
})();

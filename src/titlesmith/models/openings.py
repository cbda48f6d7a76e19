"""Openings: the tokens before a document, compared by the loss of a pretrained model on real documents."""

from titlesmith.models.catalogue import folder, hyperparameters
from titlesmith.models.devices import available_memory

BATCH = 4  # documents a forward pass: logits of 64 tokens and 262,144 ids take 270 MB


def measure_openings(name: str, openings: list[list[int]], documents: list[list[int]]) -> list[float]:
    """Mean loss of documents after each opening, in nats a token, under a model of the transformers library.

    ``openings`` and ``documents`` are ids; those of openings do not count. Empty if the model does not fit into memory.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    from titlesmith.models.weights import read

    known = hyperparameters(name, 0)
    if known.get("parameters", 0) * known.get("itemsize", 4) > 0.8 * available_memory():
        print(f"{name} does not fit into memory, so the tokens before a document are its tokenizer's.")
        return []
    model = read(folder(name), "none").eval().to("cuda" if torch.cuda.is_available() else "cpu")
    texts = [torch.tensor(ids) for ids in documents if ids]
    result = []
    for opening in openings:
        total = 0.0
        for first in range(0, len(texts), BATCH):
            # Padding is after the documents, where causal attention does not see it
            labels = pad_sequence(texts[first : first + BATCH], batch_first=True, padding_value=-100).to(model.device)
            start = torch.tensor(opening, device=model.device).expand(len(labels), -1)
            ids = torch.cat([start, labels.clamp(min=0)], 1)
            with torch.inference_mode():
                logits = model(input_ids=ids, use_cache=False).logits[:, len(opening) - 1 : -1]
                total += cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum").item()
        result.append(total / sum(map(len, texts)))
    return result

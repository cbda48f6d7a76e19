"""Openings: the tokens before a document, compared by the loss of a pretrained model on real documents."""

from titlesmith.models.catalogue import folder, hyperparameters
from titlesmith.models.devices import available_memory


def measure_openings(name: str, openings: list[list[int]], documents: list[list[int]]) -> list[float]:
    """Mean loss of documents after each opening, in nats a token, under a model of the transformers library.

    ``openings`` and ``documents`` are ids; those of openings do not count. Empty if the model does not fit into memory.
    """
    import torch

    from titlesmith.models.weights import read

    known = hyperparameters(name, 0)
    if known.get("parameters", 0) * known.get("itemsize", 4) > 0.8 * available_memory():
        print(f"{name} does not fit into memory, so the tokens before a document are its tokenizer's.")
        return []
    model = read(folder(name), "none").eval().to("cuda" if torch.cuda.is_available() else "cpu")
    documents, result = list(filter(None, documents)), []
    for opening in openings:
        total = 0.0
        for document in documents:
            ids = torch.tensor([opening + document], device=model.device)
            labels = torch.tensor([[-100] * len(opening) + document], device=model.device)
            with torch.inference_mode():
                total += len(document) * model(input_ids=ids, labels=labels).loss.item()
        result.append(total / sum(map(len, documents)))
    return result

"""Compares Kubernetes objects, as Helm and as kustomize put them together.

    same_objects.py HELM KUSTOMIZE    # each a file, or a directory of *.yaml

Prints each difference, and exits with 1 if there is one. What only one of them can have is left out: the labels of a
release, the Namespace, and comments in the routing file.
"""

import pathlib
import sys

import yaml

RELEASE_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance")


def objects(path):
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]
    found = {}
    for document in documents:
        if document["kind"] == "Namespace":
            continue
        metadata = document["metadata"]
        labels = {k: v for k, v in metadata.pop("labels", {}).items() if k not in RELEASE_LABELS}
        if labels:
            metadata["labels"] = labels
        if document["kind"] == "ConfigMap":
            document["data"] = {name: yaml.safe_load(text) for name, text in document["data"].items()}
        key = f"{document['kind']} {metadata['name']}"
        assert key not in found, f"{path}: {key} is there twice"
        found[key] = document
    assert found, f"{path}: no objects"
    return found


def differences(ours, theirs, place):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from differences(ours.get(key), theirs.get(key), f"{place}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        # By name, where entries have one: kustomize may put them in another order.
        def name(entry):
            return str(entry.get("name", "")) if isinstance(entry, dict) else ""

        for number, (one, other) in enumerate(zip(sorted(ours, key=name), sorted(theirs, key=name))):
            yield from differences(one, other, f"{place}[{number}]")
    elif ours is None or theirs is None:
        yield f"{place}: only {'kustomize' if ours is None else 'Helm'} has it"
    elif ours != theirs:
        yield f"{place}: {ours!r} (Helm), {theirs!r} (kustomize)"


def main():
    helm, kustomize = (objects(pathlib.Path(path)) for path in sys.argv[1:3])
    found = list(differences(helm, kustomize, ""))
    for difference in found:
        print(difference.removeprefix("."))
    print(f"{len(helm)} objects, {len(found)} differences")
    sys.exit(1 if found else 0)


main()

"""`--weights` takes what training writes, says what it did, and asks where it is ambiguous."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from stateport_exporter.errors import TargetError
from stateport_exporter.network.weights import load_weights

Weights = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self, hidden: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)


def trained() -> Weights:
    torch.manual_seed(7)
    return Net().state_dict()


def prefixed(prefix: str) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in trained().items()}


def loaded(content: object, folder: Path, file: str = "w.pt", **options: Any) -> tuple[str, ...]:
    """Saves, loads into a fresh network, and checks that the trained weights arrived."""
    torch.save(content, folder / file)
    net = Net()
    notes = load_weights(net, folder / file, **options)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, trained()[name], rtol=0, atol=0)
    return notes


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "ema", "gen"])
def test_a_state_dict_inside_a_checkpoint_is_taken_and_said(tmp_path: Path, key: str) -> None:
    checkpoint = {"epoch": 3, key: trained(), "optimizer": {"state": {0: {"step": 4}}, "lr": 0.1}}
    assert loaded(checkpoint, tmp_path) == (f"the weights are those under {key!r}",)


def test_a_state_dict_two_levels_down_is_taken(tmp_path: Path) -> None:
    notes = loaded({"ema": {"decay": 0.9, "shadow": trained()}}, tmp_path)
    assert notes == ("the weights are those under 'ema.shadow'",)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "network."])
def test_a_prefix_that_all_names_share_is_taken_off_and_said(tmp_path: Path, prefix: str) -> None:
    notes = loaded(prefixed(prefix), tmp_path)
    assert notes == (f"the prefix {prefix!r} was taken from the names of the weights",)


def test_prefixes_of_several_wrappers_are_taken_off(tmp_path: Path) -> None:
    notes = loaded({"state_dict": prefixed("model._orig_mod.module.")}, tmp_path, "last.ckpt")
    assert len(notes) == 4


def test_an_averaged_model_is_taken_without_its_counter(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(Net())
    averaged.module.load_state_dict(trained())
    notes = loaded(averaged.state_dict(), tmp_path)
    assert any("'n_averaged'" in note for note in notes)


def test_wrappers_inside_the_network_are_taken_out_of_the_names(tmp_path: Path) -> None:
    inner = {name.replace("lstm.", "lstm._orig_mod."): t for name, t in trained().items()}
    assert loaded(inner, tmp_path) == (
        "the names of wrappers inside the network were taken out of its names",
    )


def test_a_prefix_of_the_network_itself_stays(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Net()

    torch.save(prefixed("model."), tmp_path / "w.pt")
    assert load_weights(Outer(), tmp_path / "w.pt") == ()


def test_of_several_sets_that_fit_one_has_to_be_chosen(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in trained().items()}
    checkpoint = {"model": other, "ema": trained()}
    torch.save(checkpoint, tmp_path / "w.pt")
    with pytest.raises(TargetError, match=r"several sets of weights that fit: model, ema\. .*key"):
        load_weights(Net(), tmp_path / "w.pt")

    assert loaded(checkpoint, tmp_path, key="ema") == ("the weights are those under 'ema'",)


def test_of_several_sets_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    checkpoint = {"discriminator": Net(5).state_dict(), "generator": trained()}
    assert loaded(checkpoint, tmp_path) == ("the weights are those under 'generator'",)


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    torch.save({"model": trained()}, tmp_path / "w.pt")
    with pytest.raises(TargetError, match="no weights under 'ema'; its sets of weights are model"):
        load_weights(Net(), tmp_path / "w.pt", key="ema")

    torch.save(trained(), tmp_path / "w.pt")
    with pytest.raises(TargetError, match="no weights under 'ema'; it is one state_dict itself"):
        load_weights(Net(), tmp_path / "w.pt", key="ema")


def test_an_unknown_prefix_is_refused_and_advised(tmp_path: Path) -> None:
    weights = {**prefixed("generator."), "critic.weight": torch.zeros(1)}
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(TargetError, match=r"--strip-prefix 'generator\.'"):
        load_weights(Net(), tmp_path / "w.pt")

    notes = loaded(weights, tmp_path, prefix="generator.")
    assert notes[1] == "critic.weight lies outside 'generator.' and was left out"


def test_a_prefix_that_no_name_has_is_refused_with_the_names(tmp_path: Path) -> None:
    torch.save(prefixed("student."), tmp_path / "w.pt")
    says = r"No name in .* begins with 'teacher\.'.*they begin with student\.lstm"
    with pytest.raises(TargetError, match=says):
        load_weights(Net(), tmp_path / "w.pt", prefix="teacher.")


@pytest.mark.parametrize(
    ("prefixes", "advice"),
    [
        (["a.b."], "--strip-prefix 'a.b.'."),
        (["model.other."], "--strip-prefix 'model.other.'."),
        (["teacher.", "student."], "--strip-prefix 'teacher.' or --strip-prefix 'student.'."),
    ],
)
def test_every_prefix_that_would_fit_is_advised_and_works(
    tmp_path: Path, prefixes: list[str], advice: str
) -> None:
    weights: Weights = {}
    for prefix in prefixes:
        weights |= prefixed(prefix)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(TargetError) as refusal:
        load_weights(Net(), tmp_path / "w.pt")
    assert str(refusal.value).endswith(advice)
    for prefix in prefixes:
        loaded(weights, tmp_path, prefix=prefix)


def test_equal_keys_of_two_levels_are_not_confused(tmp_path: Path) -> None:
    twice = {"a.b": trained(), "a": {"b": {n: t + 1 for n, t in trained().items()}}}
    torch.save(twice, tmp_path / "w.pt")
    with pytest.raises(TargetError, match="several sets of weights that fit"):
        load_weights(Net(), tmp_path / "w.pt", key="a.b")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def test_a_tied_weight_may_stand_in_the_file_once(tmp_path: Path) -> None:
    torch.save({"second.weight": torch.ones(3, 3)}, tmp_path / "w.pt")
    network = Tied()
    load_weights(network, tmp_path / "w.pt")
    assert torch.equal(network.first.weight, torch.ones(3, 3))


def test_two_values_of_a_tied_weight_are_refused(tmp_path: Path) -> None:
    both = {"first.weight": torch.ones(3, 3), "second.weight": torch.zeros(3, 3)}
    torch.save(both, tmp_path / "w.pt")
    with pytest.raises(TargetError, match="are one weight in the network"):
        load_weights(Tied(), tmp_path / "w.pt")


def test_what_is_not_unpickled_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": trained(), "folder": tmp_path}, tmp_path / "w.pt")
    with pytest.raises(TargetError, match=r"it holds pathlib\..*weights_only=False"):
        load_weights(Net(), tmp_path / "w.pt")


def test_an_object_with_a_very_long_name_is_refused_at_once(tmp_path: Path) -> None:
    """PyTorch searches such a name for minutes."""
    name = b"collections." + b"OrderedDict" * 3000
    path = tmp_path / "long.pt"
    path.write_bytes(b"\x80\x02c" + name.replace(b".", b"\n", 1) + b"\n.")
    with pytest.raises(TargetError, match="names an object by 33012 characters"):
        load_weights(Net(), path)


def test_arguments_are_advised_only_where_shapes_differ(tmp_path: Path) -> None:
    torch.save(Net(4).state_dict(), tmp_path / "w.pt")
    with pytest.raises(TargetError, match=r"is float32\[16\], not float32\[12\].*--arg"):
        load_weights(Net(), tmp_path / "w.pt")

    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(
        TargetError, match=r"names begin with encoder\.weight; the network's"
    ) as says:
        load_weights(Net(), tmp_path / "w.pt")
    assert "--arg" not in str(says.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_cast_and_said(tmp_path: Path, dtype: torch.dtype) -> None:
    halves = {name: tensor.to(dtype) for name, tensor in trained().items()}
    torch.save(halves, tmp_path / "w.pt")
    net = Net()
    [note] = load_weights(net, tmp_path / "w.pt")
    assert note == f"weights in {str(dtype).removeprefix('torch.')} were cast to float32"
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, halves[name].float(), rtol=0, atol=0)


def test_doubles_are_not_cast(tmp_path: Path) -> None:
    torch.save({name: tensor.double() for name, tensor in trained().items()}, tmp_path / "w.pt")
    with pytest.raises(TargetError, match="float64"):
        load_weights(Net(), tmp_path / "w.pt")


@pytest.mark.parametrize("file", ["w.pt", "w.pth", "w.bin", "w.ckpt", "w.pth.tar"])
def test_every_ending_of_torch_save_is_read(tmp_path: Path, file: str) -> None:
    assert loaded(trained(), tmp_path, file) == ()


def test_what_training_writes_beside_the_weights_is_read_past(tmp_path: Path) -> None:
    loaded(
        {
            "state_dict": trained(),
            "best": np.float64(0.1),
            "step": np.int64(4),
            "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
        },
        tmp_path,
    )


def old_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Conv1d(2, 3, 4))


def new_norm() -> nn.Module:
    layer: nn.Module = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 4))
    return layer


@pytest.mark.parametrize(("wrote", "reads"), [(old_norm, new_norm), (new_norm, old_norm)])
def test_weight_norm_of_either_form_is_read_into_the_other(
    tmp_path: Path, wrote: Callable[[], nn.Module], reads: Callable[[], nn.Module]
) -> None:
    writer, reader = wrote(), reads()
    torch.save(writer.state_dict(), tmp_path / "w.pt")
    [note] = load_weights(reader, tmp_path / "w.pt")
    assert "weight_norm" in note

    x = torch.randn(1, 2, 9)
    torch.testing.assert_close(reader(x), writer(x))


def sharded(folder: Path, ending: str) -> tuple[Path, dict[str, str]]:
    """Weights in two files, and the index that says which name is where."""
    weight_map = {}
    for number, (name, tensor) in enumerate(trained().items()):
        weight_map[name] = f"part-{number % 2}{ending}"
        part = folder / weight_map[name]
        former = {}
        if part.exists() and ending == ".safetensors":
            former = safetensors.torch.load_file(part)
        elif part.exists():
            former = torch.load(part, weights_only=True)
        if ending == ".safetensors":
            safetensors.torch.save_file({**former, name: tensor}, part)
        else:
            torch.save({**former, name: tensor}, part)

    index = folder / f"model{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index, weight_map


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_an_index_of_several_files_is_read(tmp_path: Path, ending: str) -> None:
    index, _ = sharded(tmp_path, ending)
    net = Net()
    assert load_weights(net, index) == ()
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, trained()[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("../outside.safetensors", "lies outside its own folder"),
        ("/etc/passwd", "lies outside its own folder"),
        ("gone.safetensors", "is not there"),
        ("part-1.safetensors", "it does not"),
        ("a\0b", "can be no file's name"),
        (3, "a text was expected"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, file: object, says: str) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    safetensors.torch.save_file(trained(), tmp_path / "outside.safetensors")
    index, weight_map = sharded(folder, ".safetensors")
    document = {"weight_map": {**weight_map, next(iter(weight_map)): file}}
    index.write_text(json.dumps(document))
    with pytest.raises(TargetError, match=says):
        load_weights(Net(), index)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', "{", "\x00"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(TargetError):
        load_weights(Net(), index)

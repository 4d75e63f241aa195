"""A model in a worker of a page: the page goes on, and the model hears its microphone."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import torch
from torch import nn

import stateport
from stateport import State
from stateport_exporter import Spec, export
from tests.documents import blocks
from tests.javascript.browser import continued, opened
from tests.javascript.networks import exported

ROOT = Path(__file__).parents[2]

#: Makes one long call; whether the page's own work was done before its answer came, and the answer.
LONG_CALL = """async ([worker, given]) => {
  const { load, State } = await import("stateport");
  const bytes = Uint8Array.from(atob(given), (character) => character.charCodeAt(0));
  const inputs = Object.fromEntries(State.deserialize(bytes));
  const model = await load(new URL("model.onnx", location.href), { worker });
  const order = [];
  const channel = new MessageChannel();
  const work = new Promise((done) => (channel.port1.onmessage = () => done(order.push("page"))));
  const call = model.run(inputs).then((answer) => (order.push("call"), answer));
  channel.port2.postMessage("work of the page");
  const [{ y }] = await Promise.all([call, work]);
  await model.dispose();
  return [order.join(), Array.from(y.data)];
}"""

#: What the page of docs/javascript.md calls, and what a test has to know of it.
AUDIO = """async (code) => {
  const { load: original, State, Tensor } = await import("stateport");
  const frames = [], answers = [];
  let enough;
  const heard = new Promise((done) => (enough = done));
  const show = (data) => {
    answers.push(Array.from(data));
    if (answers.length === 10) enough();
  };
  const load = async (...rest) => {
    const model = await original(...rest);
    const stream = model.stream();
    const push = stream.push.bind(stream);
    stream.push = (x) => (frames.push(Array.from(x.data)), push(x));
    model.stream = () => stream;
    return model;
  };
  const Async = (async () => {}).constructor;
  await new Async("load", "Tensor", "show", code)(load, Tensor, show);
  await heard;
  return [frames.slice(0, 10), answers.slice(0, 10)];
}"""


class Envelope(nn.Module):
    """A GRU over the samples of a recording."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time) -> (batch, time, 3)."""
        y: torch.Tensor
        y, _ = self.gru(x[:, :, None])
        return y


def test_the_page_goes_on_while_the_worker_computes(reference: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3000, 5), np.float32)
    expected, _ = stateport.load(reference)(x)
    given = base64.b64encode(State({"x": x}).to_bytes()).decode()
    with opened(tmp_path, reference) as page:
        order, y = page.evaluate(LONG_CALL, [True, given])
        assert order == "page,call"
        assert page.evaluate(LONG_CALL, [False, given])[0] == "call,page"
        np.testing.assert_allclose(np.reshape(y, expected.shape), expected, rtol=0, atol=1e-5)


def test_a_state_goes_on_from_the_page_to_its_worker(tmp_path: Path) -> None:
    exported("float16", tmp_path / "m.onnx")
    model = stateport.load(tmp_path / "m.onnx")
    chunk = {"x": np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float16)}
    stream = model.stream()
    stream.run(chunk)
    before = stream.state.to_bytes()
    with opened(tmp_path, tmp_path / "m.onnx") as page:
        here = continued(page, before, State(chunk).to_bytes())
        there = continued(page, before, State(chunk).to_bytes(), worker=True)
    assert here == there


def test_the_microphone_of_the_guide(tmp_path: Path) -> None:
    shown = blocks((ROOT / "docs/javascript.md").read_text(encoding="utf-8"))
    worklet, code = [block.text for block in shown if block.language == "ts"]
    torch.manual_seed(0)
    example = (Spec("float32", "batch", "time"),)
    export(Envelope(), example, tmp_path / "m.onnx")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "frames.js").write_text(worklet, encoding="utf-8")

    flags = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with opened(tmp_path, tmp_path / "m.onnx", *flags) as page:
        frames, answers = page.evaluate(AUDIO, code)

    assert {len(frame) for frame in frames} == {320}
    whole = np.concatenate(frames).astype(np.float32)[None]
    expected, _ = stateport.load(tmp_path / "m.onnx")(whole)
    got = np.concatenate(answers).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)

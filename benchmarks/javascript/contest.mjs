// SPDX-License-Identifier: Apache-2.0
// One network, stepped by three contenders in turns: a loop on `session.run` written by hand, a
// stream of the package, and a stream of a model in a worker. It runs in Node and in a page.

/** Makes a loop as somebody writes it who carries h and c. */
async function handWritten(ort, file, provider) {
  const session = await ort.InferenceSession.create(file, {
    executionProviders: [provider],
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    logSeverityLevel: 4,
  });
  let h;
  let c;
  return {
    begin([layers, hidden]) {
      h = new ort.Tensor("float32", new Float32Array(layers * hidden), [layers, 1, hidden]);
      c = new ort.Tensor("float32", new Float32Array(layers * hidden), [layers, 1, hidden]);
    },
    async step(data, dims) {
      const out = await session.run({ x: new ort.Tensor("float32", data, dims), h0: h, c0: c });
      h = out.hn;
      c = out.cn;
      return out.y;
    },
    end: () => session.release(),
  };
}

async function streamed({ load, Tensor }, file, engine, worker) {
  const model = await load(file, { engine, worker });
  const stream = model.stream();
  return {
    begin: () => stream.reset(),
    step: (data, dims) => stream.push(new Tensor("float32", data, dims)),
    end: () => model.dispose(),
  };
}

async function seconds(contender, { steps, sizes }, data, dims) {
  contender.begin(sizes);
  const start = performance.now();
  for (let step = 0; step < steps; step++) await contender.step(data, dims);
  return (performance.now() - start) / 1000 / steps;
}

/**
 * The seconds of a step of each contender, by round; and those until the first answer.
 *
 * @param packages `ort` and `stateport`.
 * @param file the bytes of an LSTM's file: x, h0, c0 -> y, hn, cn.
 * @param load {engine, features, sizes: [layers, hidden], steps, rounds}.
 */
export async function contest({ ort, stateport }, file, load) {
  const provider = load.engine === "node" ? "cpu" : "wasm";
  const data = Float32Array.from({ length: load.features }, (_, at) => Math.sin(at));
  const dims = [1, 1, load.features];

  const start = performance.now();
  const first = await streamed(stateport, file, load.engine, false);
  await first.step(data, dims);
  const cold = (performance.now() - start) / 1000;
  await first.end();

  const contenders = {
    hand: await handWritten(ort, file, provider),
    stream: await streamed(stateport, file, load.engine, false),
    worker: await streamed(stateport, file, load.engine, true),
  };
  const names = Object.keys(contenders);
  const rounds = [];
  for (let round = -1; round < load.rounds; round++) {
    const times = {};
    // Each goes first as often as any other.
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[(turn + round + 1) % names.length];
      times[name] = await seconds(contenders[name], load, data, dims);
    }
    if (round >= 0) rounds.push(times); // the first warms up
  }
  for (const contender of Object.values(contenders)) await contender.end();
  return { cold, rounds };
}

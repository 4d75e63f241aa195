// Continues a stream with the npm package: MODEL STATE-IN INPUTS STATE-OUT OUTPUTS.
// Inputs and outputs are in files of the form of a saved state; a name is `CHUNK/INPUT`.
// Without a file STATE-IN, a new sequence begins.

import { existsSync, readFileSync, writeFileSync } from "node:fs";

import { load, State } from "../../javascript/dist/index.js";

const [path, stateIn, inputs, stateOut, outputs] = process.argv.slice(2);
const given = State.deserialize(readFileSync(inputs));
const model = await load(path);
const stream = model.stream();
if (existsSync(stateIn)) stream.restore(State.deserialize(readFileSync(stateIn)));

const chunks = new Map();
for (const [name, array] of given) {
  const [chunk, input] = name.split("/");
  chunks.set(chunk, { ...chunks.get(chunk), [input]: array });
}
const answers = {};
for (const chunk of [...chunks.keys()].sort()) {
  const named = await stream.run(chunks.get(chunk));
  for (const [name, array] of Object.entries(named)) answers[`${chunk}/${name}`] = array;
}
writeFileSync(stateOut, stream.state.serialize());
writeFileSync(outputs, new State(answers).serialize());
await model.dispose();

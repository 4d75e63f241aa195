// SPDX-License-Identifier: Apache-2.0
/** The page: it loads both networks, and connects the text generator to what can be clicked. */

import { load, State } from "stateport";

import { Generator } from "./generator.js";
import { drawGrid, drawPast, readColours, unitAt } from "./heat.js";
import { startReading } from "./sentiment.js";
import * as snapshots from "./snapshots.js";

/** Characters a second; the last is as fast as the browser can. */
const SPEEDS = [1, 4, 10, 20, 40, 80, Infinity];
/** The milliseconds of steps between two pictures, at the highest speed. */
const BETWEEN_PICTURES = 12;
const SCALES = { h: 1, c: 4 };
const SHOWN_TEXT = 3000;
const MEASURING = 250;

const find = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
let generator;
let settings;
let isWriting = false;
/** The work on the generator that waits or runs; the next waits for it. */
let last = Promise.resolve();
let redrawSentence = () => undefined;

function inOrder(work) {
  last = last.then(work).catch(showProblem);
  return last;
}

function showProblem(error) {
  isWriting = false;
  const problem = find("problem");
  problem.textContent = error.message;
  problem.hidden = false;
}

function say(text) {
  find("said").textContent = text;
}

// ---- what is shown ----

function draw() {
  const { text, begun, past, likely } = generator;
  const shown = Math.max(0, text.length - SHOWN_TEXT);
  const [first, rest] = [document.createElement("span"), document.createElement("span")];
  first.className = "begun";
  first.textContent = text.slice(shown, Math.max(shown, begun));
  rest.textContent = text.slice(Math.max(shown, begun));
  const caret = document.createElement("span");
  caret.className = isWriting ? "caret" : "caret resting";
  const box = find("text");
  box.replaceChildren(first, rest, caret);
  box.scrollTop = box.scrollHeight;

  for (const [name, scale] of Object.entries(SCALES)) {
    drawGrid(find(name), generator.values(`${name}0`), scale);
  }
  drawPast(find("past"), past, settings.order);
  find("next").replaceChildren(...likely.map(bar));
}

function bar([character, chance]) {
  const row = document.createElement("li");
  const names = { " ": "space", "\n": "line" };
  const [letter, line, share] = ["b", "i", "span"].map((name) => document.createElement(name));
  letter.textContent = names[character] ?? character;
  line.style.width = `${100 * chance}%`;
  line.setAttribute("aria-hidden", "true");
  share.textContent = `${Math.round(100 * chance)} %`;
  if (character === generator.text.at(-1)) row.className = "taken";
  row.append(letter, line, share);
  return row;
}

/** Says what the pictures show, when they stand still. */
function describe() {
  for (const name of Object.keys(SCALES)) {
    const values = generator.values(`${name}0`);
    const unit = values.reduce((best, value, at) => (Math.abs(value) > Math.abs(values[best]) ? at : best), 0);
    find(name).setAttribute(
      "aria-label",
      `The ${values.length} numbers of ${name} after ${generator.text.length} characters. The largest ` +
        `is number ${unit}: ${values[unit].toFixed(2)}.`,
    );
  }
}

function stand(text) {
  draw();
  describe();
  say(text);
}

// ---- writing ----

const daring = () => Number(find("daring").value);
const nextPicture = () => new Promise((go) => requestAnimationFrame(go));

async function write() {
  while (isWriting) {
    const speed = SPEEDS[find("speed").value];
    const start = performance.now();
    do await generator.step(daring());
    while (speed === Infinity && performance.now() - start < BETWEEN_PICTURES);
    await nextPicture();
    draw();
    const rest = 1000 / speed - (performance.now() - start);
    if (rest > 0) await new Promise((go) => setTimeout(go, rest));
  }
}

function setWriting(on) {
  if (on === isWriting) return;
  isWriting = on;
  const button = find("write");
  button.querySelector(".word").textContent = on ? "Pause" : "Write";
  button.firstElementChild.textContent = on ? "❚❚" : "▶";
  find("step").disabled = on;
  if (!on) return;
  say("Writing.");
  void inOrder(async () => {
    await write();
    stand(`Paused after ${generator.text.length} characters: ${generator.text.slice(-80)}`);
  });
}

/** Stops writing, does something, and shows it. */
function paused(work) {
  setWriting(false);
  return inOrder(async () => stand(await work()));
}

const step = () =>
  paused(async () => {
    await generator.step(daring());
    const character = generator.text.at(-1);
    return { " ": "space", "\n": "new line" }[character] ?? character;
  });

const again = () =>
  paused(async () => {
    await generator.begin(find("prompt").value);
    return "The network begins again.";
  });

// ---- saved states ----

function save() {
  return inOrder(() => {
    const { state, text } = generator;
    if (!state) return say("There is no state before the first step.");
    snapshots.add(state, text);
    showStates();
    return say(`The state after ${text.length} characters is saved.`);
  });
}

function restore(state, text) {
  return paused(async () => {
    generator.restore(state, text);
    return `The network goes on after ${text ? text.slice(-40) : "what the file remembers"}.`;
  });
}

function button(text, action) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.addEventListener("click", action);
  return made;
}

function showStates() {
  const saved = snapshots.all();
  find("none").hidden = saved.length > 0;
  find("states").replaceChildren(...saved.map(card));
  for (const [at, canvas] of [...document.querySelectorAll(".states canvas")].entries()) {
    drawGrid(canvas, snapshots.stateOf(saved[at]).get("h0").data, SCALES.h);
  }
}

function card(saved) {
  const item = document.createElement("li");
  item.className = "card";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  const tail = document.createElement("q");
  tail.textContent = `…${saved.text.slice(-70)}`;
  const buttons = document.createElement("div");
  const file = Object.assign(document.createElement("a"), {
    className: "button",
    textContent: "File",
    download: "here.safetensors",
    href: `data:application/octet-stream;base64,${saved.state}`,
  });
  file.setAttribute("aria-label", "Download as a file");
  buttons.append(
    button("Go on from here", () => restore(snapshots.stateOf(saved), saved.text)),
    file,
    button("Remove", () => {
      snapshots.remove(saved.id);
      showStates();
      find("save").focus();
    }),
  );
  item.append(canvas, tail, buttons);
  return item;
}

async function open(event) {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    await restore(State.deserialize(await file.arrayBuffer()), "");
  } catch (error) {
    showProblem(error);
  }
}

// ---- speed ----

async function measure() {
  const was = isWriting;
  await paused(async () => {
    const here = await generator.rate(MEASURING);
    const rates = [[here, "in this browser"]];
    if (settings.python) rates.push([settings.python.rate, `in Python (${settings.python.where})`]);
    find("rates").replaceChildren(...rates.map(rateOf));
    return `${number.format(here)} steps per second in this browser.`;
  });
  if (was) setWriting(true);
}

function rateOf([rate, where]) {
  const [row, name, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
  name.textContent = where;
  value.textContent = number.format(rate);
  row.append(name, value);
  return row;
}

// ---- the page ----

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  find("theme").textContent = theme === "dark" ? "Light" : "Dark";
  find("theme").setAttribute("aria-label", theme === "dark" ? "Light colours" : "Dark colours");
  readColours();
  if (!generator) return;
  draw();
  showStates();
  redrawSentence();
}

function showSettings() {
  const speed = SPEEDS[find("speed").value];
  const said = speed === Infinity ? "as fast as it can" : `${speed} a second`;
  find("speed-said").textContent = said;
  find("speed").setAttribute("aria-valuetext", said);
  const dares = daring() ? daring().toFixed(1) : "always the likeliest";
  find("daring-said").textContent = dares;
  find("daring").setAttribute("aria-valuetext", dares);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = { " ": () => setWriting(!isWriting), ArrowRight: step, s: save, S: save };
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  void action();
}

function connect() {
  find("write").addEventListener("click", () => setWriting(!isWriting));
  find("step").addEventListener("click", step);
  find("save").addEventListener("click", save);
  find("again").addEventListener("click", again);
  find("prompt").addEventListener("change", again);
  find("measure").addEventListener("click", measure);
  find("open").addEventListener("change", open);
  find("text").addEventListener("keydown", onKey);
  for (const id of ["speed", "daring"]) find(id).addEventListener("input", showSettings);
  for (const name of Object.keys(SCALES)) {
    find(name).addEventListener("pointermove", (event) => {
      const values = generator.values(`${name}0`);
      const unit = unitAt(find(name), event, values.length);
      find("unit").textContent = `${name}, number ${unit}: ${values[unit].toFixed(3)}`;
    });
  }
  window.addEventListener("resize", () => setTheme(document.documentElement.dataset.theme));
  snapshots.whenChanged(showStates);
}

async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  find("theme").addEventListener("click", () => {
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  });

  settings = await (await fetch("settings.json")).json();
  const [writer, reader] = await Promise.all([
    load(new URL("text_generator.onnx", location.href)),
    load(new URL("sentiment.onnx", location.href)),
  ]);
  generator = new Generator(writer, settings.alphabet);
  find("prompt").value = settings.prompt;
  connect();
  showSettings();
  await again();
  showStates();
  redrawSentence = startReading(reader, new Map(settings.words.map((word, at) => [word, at])));
  await measure();
  for (const id of ["write", "step", "save", "again", "measure"]) find(id).disabled = false;
  find("writer").setAttribute("aria-busy", "false");
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) setWriting(true);
}

start().catch(showProblem);

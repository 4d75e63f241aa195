// The package as it is published: its size, and what it imports.

import { readdirSync, readFileSync } from "node:fs";

import { expect, test } from "vitest";

/** Minified, without ONNX Runtime. */
const MOST_BYTES = 32_500;
const ROOT = new URL("../", import.meta.url);
const read = (name: string) => readFileSync(new URL(name, ROOT), "utf8");

const files = readdirSync(new URL("dist", ROOT)).filter((name) => name.endsWith(".js"));
const importsOf = (name: string) =>
  [...read(`dist/${name}`).matchAll(/(?:from|import)\s*\(?["'`]([^"'`]+)["'`]/g)].map(([, from]) => from!);

/** The files that are loaded with one of them, before anything is called. */
function loadedWith(name: string): string[] {
  const imported = [...read(`dist/${name}`).matchAll(/from\s*["'`]\.\/([^"'`]+)["'`]/g)];
  return [name, ...imported.flatMap(([, other]) => loadedWith(other!))];
}

test("what a page loads is small", () => {
  const loaded = [...new Set(loadedWith("index.js"))];
  const sizes = loaded.map((name) => read(`dist/${name}`).length);
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(MOST_BYTES);
});

test("it imports ONNX Runtime and nothing else", () => {
  const imported = files.flatMap(importsOf).filter((name) => !name.startsWith("./"));
  expect(imported.sort()).toEqual(["onnxruntime-common", "onnxruntime-web/wasm"]);
});

test("the lock file names no registry", () => {
  expect(read("package-lock.json")).not.toMatch(/"resolved"/);
});

// The package as it is published: its size, and what it imports.

import { readFileSync } from "node:fs";

import { expect, test } from "vitest";

const ROOT = new URL("../", import.meta.url);
const read = (name: string) => readFileSync(new URL(name, ROOT), "utf8");

test("the built package is small", () => {
  expect(read("dist/index.js").length).toBeLessThan(26_000);
});

test("it imports ONNX Runtime and nothing else", () => {
  const imported = [...read("dist/index.js").matchAll(/(?:from|import)\s*\(?["'`]([^"'`]+)["'`]/g)];
  expect(imported.map(([, name]) => name)).toEqual(["onnxruntime-common", "onnxruntime-web/wasm"]);
});

test("the lock file names no registry", () => {
  expect(read("package-lock.json")).not.toMatch(/"resolved"/);
});

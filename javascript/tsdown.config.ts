import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts", "src/worker.ts"],
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: true,
  minify: true,
  outExtensions: () => ({ js: ".js", dts: ".d.ts" }),
  deps: { neverBundle: [/^onnxruntime-/, /^node:/] },
});

/** Processes of their own: what importing does, and when they end. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { test } from "node:test";

import { accept, Gateway, NOBODY, PATIENCE_MS } from "./gateway.js";

const CLIENT = new URL("../../gateway/static/perf-tracer.js", import.meta.url).href;
const PAGE_LOAD = new URL("../../gateway/static/perf-tracer-page-load.js", import.meta.url).href;

/** Runs a module that must end by itself, and well; what it printed. */
async function run(code) {
  const child = spawn(process.execPath, ["--input-type=module", "--eval", code], {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: PATIENCE_MS,
    killSignal: "SIGKILL",
  });
  const exited = new Promise((resolve) => child.on("exit", (status, signal) => resolve({ status, signal })));
  const [output, errors, exit] = await Promise.all([text(child.stdout), text(child.stderr), exited]);

  assert.deepEqual({ ...exit, errors }, { status: 0, signal: null, errors: "" });
  return output;
}

for (const [name, url] of [
  ["the client", CLIENT],
  ["the page load's", PAGE_LOAD],
]) {
  test(`importing touches nothing and starts nothing: ${name}`, async () => {
    await run(`
      import assert from "node:assert/strict";
      const globals = () => new Map(Reflect.ownKeys(globalThis).map((key) => {
        const { value, get, set } = Object.getOwnPropertyDescriptor(globalThis, key);
        return [key, [value, get, set]];
      }));
      const listeners = () => process.eventNames().map((event) => [event, process.listenerCount(event)]);
      const timers = () => process.getActiveResourcesInfo().filter((resource) => resource == "Timeout");
      globals(); // which are made when they are first looked at
      const before = [globals(), listeners(), timers()];
      const exported = await import("${url}");
      const after = [globals(), listeners(), timers()];

      assert.equal(Object.keys(exported).length, 1);
      assert.deepEqual([...after[0].keys()], [...before[0].keys()]);
      for (const [key, parts] of before[0]) {
        assert.ok(parts.every((part, index) => Object.is(part, after[0].get(key)[index])), String(key));
      }
      assert.deepEqual(after.slice(1), before.slice(1));
    `);
  });

  test(`importing asks for nothing that servers may not have: ${name}`, async () => {
    const missing = ["fetch", "crypto", "performance", "setTimeout", "clearTimeout", "addEventListener", "AbortSignal"];
    await run(`
      import assert from "node:assert/strict";
      for (const name of ${JSON.stringify([...missing, "document", "location", "Headers", "TextEncoder"])}) {
        delete globalThis[name];
        assert.ok(!(name in globalThis), name);
      }
      await import("${url}");
    `);
  });
}

test("measuring the page's load does nothing where there is no page", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const output = await run(`
    import { tracePageLoad } from "${PAGE_LOAD}";
    console.log(tracePageLoad(), tracePageLoad("load", { url: "${gateway.url}" }), tracePageLoad(null, null));
  `);

  assert.equal(output, "undefined undefined undefined\n");
  assert.equal(await gateway.count(), 0);
});

/** What a script says, with the gateway at `url`. */
const script = (url, code) => `
  import { RemoteTrace } from "${CLIENT}";
  const trace = new RemoteTrace("checkout", { url: "${url}" });
  trace.start();
  trace.step("cart");
  ${code}
`;

for (const [name, code] of [
  ["an open trace", ""],
  ["a trace that has ended", "trace.end();"],
  ["a flush", "await trace.flush();"],
]) {
  test(`a process with ${name} ends by itself`, async (t) => {
    await run(script((await Gateway.start(t, accept)).url, code));
  });

  test(`a process with ${name} ends by itself, too, when nobody listens`, async () => {
    await run(script(NOBODY, code));
  });

  test(`a process with ${name} ends by itself, too, when it has to wait`, async (t) => {
    const busy = await Gateway.start(t, () => ({ status: 503, headers: { "retry-after": "3600" } }));
    await run(script(busy.url, code));
  });
}

test("what was said is delivered by flush() before a script ends", async (t) => {
  const gateway = await Gateway.start(t, accept);
  await run(script(gateway.url, "await trace.flush();"));

  assert.deepEqual(gateway.events.map(({ type }) => type), ["start", "step"]);
});

test("a trace that has ended is delivered before a script ends", async (t) => {
  const gateway = await Gateway.start(t, accept);
  await run(script(gateway.url, "trace.end();"));

  assert.deepEqual(gateway.events.map(({ type }) => type), ["start", "step", "end"]);
});

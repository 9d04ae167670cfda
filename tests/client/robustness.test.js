/** Nothing throws, nothing rejects, and what can be said is said. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { accept, Gateway, listen, NOBODY } from "./gateway.js";

const fail = () => {
  throw new Error("hostile");
};

const cyclic = {};
cyclic.self = cyclic;
const revoked = Proxy.revocable({}, {});
revoked.revoke();

const HOSTILE = {
  undefined,
  null: null,
  false: false,
  zero: 0,
  NaN,
  "a negative number": -1,
  "an endless number": Infinity,
  "an empty text": "",
  "half of a pair": "\ud800",
  "a symbol": Symbol("hostile"),
  "a BigInt": 5n,
  "an object": {},
  "a list": [null],
  "an object without prototype": Object.create(null),
  "a function": fail,
  "a cycle": cyclic,
  "a date that is none": new Date(NaN),
  "no text": { toString: fail, valueOf: fail, toJSON: fail },
  "getters that throw": new Proxy({}, { get: fail, has: fail, ownKeys: fail }),
  "a revoked proxy": revoked.proxy,
};

/** Every place where a page may put a value. */
const PLACES = {
  name: (value, { trace }) => trace(value),
  options: (value, { RemoteTrace }) => new RemoteTrace("hostile", value),
  id: (id, { trace }) => trace("hostile", { id }),
  url: (url, { trace }) => trace("hostile", { url }),
  key: (key, { trace }) => trace("hostile", { key }),
  service: (service, { trace }) => trace("hostile", { service }),
  propagateTo: (propagateTo, { trace }) => trace("hostile", { propagateTo }),
  "an entry of propagateTo": (value, { trace }) => trace("hostile", { propagateTo: [value] }),
  "details of a start": (value, { trace }) => [trace(), (it) => it.start(value)],
  "attributes of a start": (attributes, { trace }) => [trace(), (it) => it.start({ attributes })],
  "time of a start": (time, { trace }) => [trace(), (it) => it.start({ time })],
  "name of a step": (value, { trace }) => [trace(), (it) => it.step(value)],
  "details of a step": (value, { trace }) => [trace(), (it) => it.step("cart", value)],
  track: (track, { trace }) => [trace(), (it) => it.step("cart", { track })],
  end: (end, { trace }) => [trace(), (it) => it.step("cart", { end })],
  attributes: (attributes, { trace }) => [trace(), (it) => it.step("cart", { attributes })],
  "an attribute": (value, { trace }) => [trace(), (it) => it.step("cart", { attributes: { value } })],
  error: (error, { trace }) => [trace(), (it) => it.step("cart", { error })],
  "an error's parts": (part, { trace }) => [
    trace(),
    (it) => it.step("cart", { error: { name: part, message: part, stack: part } }),
  ],
  time: (time, { trace }) => [trace(), (it) => it.step("cart", { time })],
  "details of an end": (value, { trace }) => [trace(), (it) => it.end(value)],
  "error of an end": (error, { trace }) => [trace(), (it) => it.end({ error })],
};

for (const [place, put] of Object.entries(PLACES)) {
  test(`whatever is passed as ${place}, nothing throws or rejects, and others are not disturbed`, async (t) => {
    listen(t);
    const unhandled = [];
    const note = (error) => unhandled.push(error);
    process.on("unhandledRejection", note);
    t.after(() => process.off("unhandledRejection", note));
    const gateway = await Gateway.start(t, accept);
    const { RemoteTrace } = gateway;
    const trace = (name = "hostile", options = {}) => new RemoteTrace(name, { url: gateway.url, ...options });
    const failures = [];
    for (const [name, value] of Object.entries(HOSTILE)) {
      try {
        const [it, act] = [put(value, { RemoteTrace, trace })].flat();
        const said = [it.start(), it.step("before"), act?.(it), it.step("after"), it.end(), it.flush()];
        assert.deepEqual(await Promise.all(said), said.map(() => undefined));
        assert.match(it.traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
        await assert.rejects(it.fetch(NOBODY), TypeError);
      } catch (error) {
        failures.push(`${name}: ${error?.message}`);
      }
    }
    const other = trace("healthy");
    other.start();
    other.end();
    await other.flush();
    await new Promise(setImmediate);

    assert.deepEqual(failures, []);
    assert.deepEqual(unhandled, []);
    const told = gateway.requests.flatMap(({ body }) => body.traces);
    const healthy = told.filter(({ trace_tag }) => trace_tag == "healthy");
    assert.deepEqual(healthy.map(({ events }) => events.map(({ type }) => type)), [["start", "end"]]);
  });
}

/** What the gateway gets of a step with these details, and a healthy one after it. */
async function step(t, details) {
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.traced();
  trace.step("cart", details);
  trace.step("next");
  await trace.flush();
  const [, event, ...after] = gateway.events;

  assert.deepEqual([event.type, event.seq, event.step_name], ["step", 1, "cart"]);
  assert.deepEqual(after.map(({ seq, step_name }) => [seq, step_name]), [[2, "next"]]);
  return event;
}

for (const [name, attributes] of Object.entries({
  "a cycle": cyclic,
  "a BigInt": { count: 5n },
  "a getter that throws": Object.defineProperty({}, "count", { enumerable: true, get: fail }),
  "a toJSON that throws": { toJSON: fail },
  "a revoked proxy": revoked.proxy,
})) {
  test(`attributes that are no JSON are left out, and the event is not: ${name}`, async (t) => {
    const event = await step(t, { attributes, error: "declined", track: false });

    assert.equal(event.attributes, undefined);
    assert.equal(event.error.message, "declined");
    assert.equal(event.track_duration, false);
  });
}

const withoutStack = new RangeError("too far");
delete withoutStack.stack;

for (const [name, error, expected] of [
  ["a text", "declined", { message: "declined" }],
  ["a number", 402, { message: "402" }],
  ["a symbol", Symbol("declined"), { message: "Symbol(declined)" }],
  ["a BigInt", 402n, { message: "402" }],
  ["an object", {}, { message: "[object Object]" }],
  ["much like an error", { name: "N", message: "m", stack: "s" }, { type: "N", message: "m", stack: "s" }],
  ["an answer's body", { statusCode: 400, message: ["one", "two"] }, { message: "one,two" }],
  ["an error without a stack", withoutStack, { type: "RangeError", message: "too far" }],
  ["an error without a message", Object.assign(new Error(), { stack: undefined }), { type: "Error", message: "" }],
  ["an event", { type: "error", message: "Script error." }, { type: "error", message: "Script error." }],
  // As in `error: !answer.ok && answer.statusText`.
  ...[undefined, null, false, 0, ""].map((none) => [`none, ${JSON.stringify(none)}`, none, undefined]),
]) {
  test(`an error is told as text, whatever was caught: ${name}`, async (t) => {
    const event = await step(t, { error });

    assert.deepEqual(event.error, expected);
  });
}

for (const [name, error, type] of [
  ["an error", new TypeError("gone"), "TypeError"],
  ["an error of one's own", Object.assign(new Error("gone"), { name: "Declined" }), "Declined"],
  ["an error of the browser's", new DOMException("gone", "AbortError"), "AbortError"],
]) {
  test(`an error brings its type, its message and its stack: ${name}`, async (t) => {
    const told = (await step(t, { error })).error;

    assert.deepEqual([told.type, told.message], [type, "gone"]);
    assert.match(told.stack, /robustness\.test\.js/);
  });
}

test("a time before the page was opened is before it", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.trace();
  trace.start({ time: -1_500 });
  trace.step("cart", { time: -500 });
  trace.end({ time: 0 });
  await trace.flush();
  const [start, ...later] = gateway.events.map(({ time }) => time);

  assert.deepEqual(later.map((time) => Math.round(time - start)), [1_000, 1_500]);
  assert.ok(Math.abs(start + 1_500 - performance.timeOrigin) < 1_000);
});

for (const [name, path, url] of [
  ["an origin", "", (base) => base],
  ["an origin with a slash", "", (base) => `${base}/`],
  ["several slashes", "", (base) => `${base}///`],
  ["a path prefix", "/traces", (base) => `${base}/traces`],
  ["a path prefix with a slash", "/my/traces", (base) => `${base}/my/traces/`],
  ["a URL object", "", (base) => new URL(base)],
  ["a URL object with a path prefix", "/traces", (base) => new URL(`${base}/traces/`)],
]) {
  test(`url may be ${name}`, async (t) => {
    const gateway = await Gateway.start(t, accept);
    const trace = gateway.trace("checkout", { url: url(gateway.url) });
    trace.start();
    await trace.flush();

    assert.equal(gateway.requests[0]?.path, `${path}/api/tracing/batch`);
  });
}

for (const [id, told] of [
  ["42", "42"],
  [42, "42"],
  [0, "0"],
  ["", ""],
  [null, undefined],
  [undefined, undefined],
]) {
  test(`an id is a text, or absent: ${JSON.stringify(id)}`, async (t) => {
    const gateway = await Gateway.start(t, accept);
    const trace = gateway.trace("checkout", { id });
    trace.start();
    await trace.flush();

    assert.strictEqual(gateway.requests[0].body.traces[0].trace_id, told);
  });
}

test("what is said before the start and after the end is ignored", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.trace();
  trace.step("too early");
  trace.end();
  await trace.flush();
  assert.equal(await gateway.count(), 0);
  trace.start();
  trace.step("cart");
  trace.end();
  trace.step("too late");
  trace.end({ error: "too late" });
  await trace.flush();

  assert.deepEqual(gateway.events.map(({ seq, type }) => [seq, type]), [
    [0, "start"],
    [1, "step"],
    [2, "end"],
  ]);
});

for (const [name, act] of [
  ["after its end", (trace) => trace.end()],
  ["while it is open", () => {}],
]) {
  test(`a trace that starts again ${name} is another run, with ids of its own`, async (t) => {
    const gateway = await Gateway.start(t, accept);
    const trace = gateway.trace("checkout", { id: 42 });
    const told = [];
    for (const _ of [1, 2]) {
      trace.start();
      told.push(trace.traceparent);
      trace.step("cart");
      act(trace);
    }
    await trace.flush();
    const runs = gateway.requests.flatMap(({ body }) => body.traces);

    assert.equal(runs.length, 2);
    assert.deepEqual(runs.map((run) => run.trace_id), ["42", "42"]);
    assert.deepEqual(runs.map((run) => `00-${run.otel_trace_id}-${run.otel_span_id}-01`), told);
    for (const id of ["run", "otel_trace_id", "otel_span_id"]) assert.notEqual(runs[0][id], runs[1][id], id);
    for (const run of runs) assert.deepEqual(run.events.slice(0, 2).map(({ seq }) => seq), [0, 1]);
  });
}

test("the ids that the gateway gets are those that traceparent said before the start", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const traces = Array.from({ length: 20 }, () => gateway.trace());
  const told = traces.map((trace) => trace.traceparent);
  for (const trace of traces) trace.start();
  await traces[0].flush();
  const [{ body }] = gateway.requests;

  for (const each of told) assert.match(each, /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
  assert.equal(new Set(told.flatMap((each) => each.split("-").slice(1, 3))).size, 40);
  assert.deepEqual(body.traces.map((run) => `00-${run.otel_trace_id}-${run.otel_span_id}-01`), told);
});

test("steps and traces are User Timing measures, which nobody collects by accident", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const seen = [];
  const observer = new PerformanceObserver((list) => seen.push(...list.getEntries()));
  observer.observe({ entryTypes: ["measure"] });
  t.after(() => observer.disconnect());
  const trace = gateway.trace();
  trace.start({ time: 100 });
  trace.step("cart", { time: 150 });
  trace.step("pay", { time: 225, end: true });
  await trace.flush();

  seen.sort((one, other) => one.duration - other.duration);
  assert.deepEqual(seen.map(({ name, startTime, duration }) => [name, startTime, duration]), [
    ["perf-tracer: checkout: cart", 100, 50],
    ["perf-tracer: checkout: pay", 150, 75],
    ["perf-tracer: checkout", 100, 125],
  ]);
  assert.deepEqual(performance.getEntriesByType("measure"), []);
});

test("where User Timing fails, events are sent all the same", async (t) => {
  t.mock.method(performance, "measure", fail);
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.traced(1);
  trace.end();
  await trace.flush();

  assert.deepEqual(gateway.events.map(({ type }) => type), ["start", "step", "end"]);
});

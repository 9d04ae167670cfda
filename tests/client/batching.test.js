/** What is sent, and when. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { accept, Gateway, listen, NOBODY, numbers, stopTime, walk } from "./gateway.js";

const QUEUE_EVENTS = 1_000;

test("a request is a POST of text that needs no preflight", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const before = Date.now();
  await gateway.traced().flush();
  const [request] = gateway.requests;

  assert.equal(request.method, "POST");
  assert.equal(request.path, "/api/tracing/batch");
  assert.equal(request.headers["content-type"], "text/plain;charset=UTF-8");
  assert.deepEqual(Object.keys(request.body), ["sent_at", "dropped", "traces"]);
  assert.ok(request.body.sent_at >= before && request.body.sent_at <= Date.now());
  assert.equal(request.body.dropped, 0);
});

test("a trace is sent with its name, its ids and its events", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.trace("checkout", { id: 42, service: "web" });
  const [, traceId, spanId] = trace.traceparent.split("-");
  trace.start({ time: 100, attributes: { "cart.items": 3 } });
  trace.step("cart", { time: 350.5 });
  trace.step("wait", { time: 400, track: false, error: new TypeError("too late") });
  trace.end({ time: 500, error: "gone" });
  await trace.flush();
  const [{ body }] = gateway.requests;
  const [{ events, ...header }] = body.traces;
  const started = events[0].time;

  assert.equal(body.traces.length, 1);
  assert.deepEqual(header, {
    trace_tag: "checkout",
    trace_id: "42",
    run: spanId,
    service: "web",
    otel_trace_id: traceId,
    otel_span_id: spanId,
  });
  assert.deepEqual(
    events.map(({ time, error, ...event }) => ({ ...event, ms: Math.round((time - started) * 10) / 10 })),
    [
      { seq: 0, type: "start", ms: 0, attributes: { "cart.items": 3 } },
      { seq: 1, type: "step", ms: 250.5, step_name: "cart" },
      { seq: 2, type: "step", ms: 300, step_name: "wait", track_duration: false },
      { seq: 3, type: "end", ms: 400, end_trace: true },
    ],
  );
  assert.equal(events[2].error.type, "TypeError");
  assert.equal(events[2].error.message, "too late");
  assert.match(events[2].error.stack, /batching\.test\.js/);
  assert.equal(events[3].error.message, "gone");
});

test("times are milliseconds since the epoch, on the scale of performance.now()", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const before = Date.now();
  const trace = gateway.traced(1);
  const after = Date.now();
  trace.step("earlier", { time: performance.now() - 5_000 });
  await trace.flush();
  const [start, step, earlier] = gateway.events;

  // Two clocks are read, one of which has whole milliseconds.
  assert.ok(start.time > before - 2 && start.time <= step.time && step.time < after + 2);
  assert.ok(earlier.time < start.time - 4_000);
});

test("the key goes in the query, encoded", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.trace("checkout", { key: "a&b=c d" });
  trace.start();
  await trace.flush();

  assert.equal(gateway.requests[0].path, "/api/tracing/batch?key=a%26b%3Dc%20d");
});

test("events wait for a second, and then go together", async (t) => {
  const clock = stopTime(t);
  const gateway = await Gateway.start(t, accept);
  gateway.traced(1);
  clock.tick(999);
  assert.equal(await gateway.count(), 0);
  clock.tick(1);
  const { seqs } = await gateway.request(0);

  assert.deepEqual(seqs, [0, 1]);
});

test("the second begins with the first event, not anew with each", async (t) => {
  const clock = stopTime(t);
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.traced();
  clock.tick(600);
  trace.step("cart");
  clock.tick(400);
  const { seqs } = await gateway.request(0);

  assert.deepEqual(seqs, [0, 1]);
});

test("a second later is a second later again", async (t) => {
  const clock = stopTime(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced();
  for (const index of [0, 1, 2]) {
    clock.tick(1_000);
    await gateway.answer(index, trace);
    trace.step("cart");
  }

  assert.deepEqual(gateway.requests.map((request) => request.seqs), [[0], [1], [2]]);
});

for (const [name, end] of [
  ["end()", (trace) => trace.end()],
  ["a step that ends", (trace) => trace.step("paid", { end: true })],
]) {
  test(`the end of a trace goes at once, with all that waits: ${name}`, async (t) => {
    stopTime(t);
    const gateway = await Gateway.start(t, accept);
    const other = gateway.traced(1);
    const trace = gateway.traced(1);
    end(trace);
    const { body } = await gateway.request(0);
    trace.step("too late");
    trace.end();
    await other.flush();

    assert.deepEqual(body.traces.map(({ events }) => events.map(({ seq }) => seq)), [[0, 1], [0, 1, 2]]);
    assert.equal(body.traces[1].events[2].end_trace, true);
    assert.equal(gateway.events.length, 5);
  });
}

test("fifty events go at once", async (t) => {
  stopTime(t);
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.traced(48);
  assert.equal(await gateway.count(), 0);
  trace.step("cart");
  const { seqs } = await gateway.request(0);

  assert.deepEqual(seqs, numbers(0, 49));
});

test("fifty events are counted anew after each request", async (t) => {
  stopTime(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced(49);
  await gateway.answer(0, trace);
  walk(trace, 49);
  assert.equal(await gateway.count(), 1);
  trace.step("cart");
  const { seqs } = await gateway.request(1);

  assert.deepEqual(seqs, numbers(50, 99));
});

for (const [name, text] of [
  ["one byte a character", "a".repeat(4_000)],
  ["four bytes a character", "😀".repeat(1_000)],
]) {
  test(`16 KiB go at once: ${name}`, async (t) => {
    stopTime(t);
    const gateway = await Gateway.start(t, accept);
    const trace = gateway.traced(3, { attributes: { text } });
    assert.equal(await gateway.count(), 0);
    trace.step("cart", { attributes: { text } });
    const request = await gateway.request(0);

    assert.equal(request.events.length, 5);
    assert.ok(Buffer.byteLength(request.text) >= 16_384);
  });
}

test("traces share a request, each under its own header", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const traces = ["cart", "search", "cart"].map((name) => gateway.trace(name));
  for (const trace of traces) trace.start();
  for (const trace of traces) trace.step("shown");
  await traces[0].flush();
  const [{ body }] = gateway.requests;

  assert.equal(gateway.requests.length, 1);
  assert.deepEqual(body.traces.map((trace) => [trace.trace_tag, trace.events.map(({ seq }) => seq)]), [
    ["cart", [0, 1]],
    ["search", [0, 1]],
    ["cart", [0, 1]],
  ]);
  assert.equal(new Set(body.traces.map((trace) => trace.run)).size, 3);
});

test("gateways and keys have requests of their own", async (t) => {
  const [one, other] = [await Gateway.start(t, accept), await Gateway.start(t, accept)];
  const options = [{}, { url: other.url }, { key: "k" }];
  for (const [index, each] of options.entries()) {
    const trace = one.trace(`trace-${index}`, each);
    trace.start();
    await trace.flush();
  }
  const tags = (gateway) => gateway.requests.map(({ path, body }) => [path, body.traces.map((each) => each.trace_tag)]);

  assert.deepEqual(tags(one), [
    ["/api/tracing/batch", ["trace-0"]],
    ["/api/tracing/batch?key=k", ["trace-2"]],
  ]);
  assert.deepEqual(tags(other), [["/api/tracing/batch", ["trace-1"]]]);
});

test("one request at a time; an end meanwhile goes right after it", async (t) => {
  stopTime(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced(1);
  trace.end();
  const first = await gateway.request(0);
  gateway.traced(1).end();
  gateway.traced(2).end();
  assert.equal(await gateway.count(), 1);
  first.reply();
  const second = await gateway.request(1);

  assert.deepEqual(first.seqs, [0, 1, 2]);
  assert.deepEqual(second.seqs, [0, 1, 2, 0, 1, 2, 3]);
});

test("events meanwhile that are in no hurry wait for their second", async (t) => {
  const clock = stopTime(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced();
  trace.end();
  const first = await gateway.request(0);
  const later = gateway.traced(1);
  first.reply();
  await clock.isRunning();
  assert.equal(await gateway.count(), 1);
  clock.tick(1_000);
  const second = await gateway.answer(1, later);

  assert.deepEqual(second.seqs, [0, 1]);
});

test("a request stays below the 64 KiB that a page may send when it is left; the rest follows", async (t) => {
  const gateway = await Gateway.start(t);
  const trace = gateway.traced(300, { attributes: { text: "x".repeat(900) } });
  const text = "y".repeat(100_000);
  trace.step("large", { attributes: { text } });
  trace.step("small");
  for (let index = 0; gateway.events.length < 303; index++) (await gateway.request(index)).reply();
  await trace.flush();
  const large = gateway.requests.filter((request) => Buffer.byteLength(request.text) > 64 * 1024);

  assert.deepEqual(gateway.events.map(({ seq }) => seq), numbers(0, 302));
  assert.deepEqual(large.map((request) => request.events.map((event) => event.step_name)), [["large"]]);
  assert.ok(gateway.requests.length < 12);
});

test("a thousand events are kept; then the oldest that waits goes, and is counted once", async (t) => {
  stopTime(t);
  const gateway = await Gateway.start(t, (_, index) => (index ? accept() : undefined));
  const trace = gateway.traced(49);
  const first = await gateway.request(0);
  walk(trace, QUEUE_EVENTS - 50 + 7);
  first.reply();
  await trace.flush();
  const kept = gateway.requests.slice(1).flatMap((request) => request.seqs);

  assert.deepEqual(first.seqs, numbers(0, 49));
  assert.deepEqual(kept, numbers(57, QUEUE_EVENTS + 6));
  assert.deepEqual(gateway.requests.slice(0, 3).map(({ body }) => body.dropped), [0, 7, 0]);
});

test("a count of dropped events that was not heard is said again", async (t) => {
  stopTime(t);
  const answers = [{ status: 503 }, "cut", { body: "<html>" }, { status: 429 }];
  const gateway = await Gateway.start(t, (_, index) => answers[index] ?? accept());
  const trace = gateway.traced(QUEUE_EVENTS + 2);
  for (const _ of answers) await trace.flush();
  await trace.flush();
  const said = gateway.requests.map(({ body }) => body.dropped);

  assert.deepEqual(said.slice(1, 6), [3, 3, 3, 3, 0]);
});

test("flush() resolves when the gateway has answered", async (t) => {
  const gateway = await Gateway.start(t);
  const trace = gateway.traced();
  let resolved = false;
  const flushed = trace.flush().then(() => (resolved = true));
  const request = await gateway.request(0);
  await gateway.count();
  assert.equal(resolved, false);
  request.reply();
  await flushed;

  assert.deepEqual(request.seqs, [0]);
});

test("flush() resolves when everything is answered, also what came while a request was under way", async (t) => {
  const gateway = await Gateway.start(t, (_, index) => (index ? accept() : undefined));
  const trace = gateway.traced();
  trace.flush();
  const request = await gateway.request(0);
  trace.step("cart");
  const flushed = trace.flush();
  request.reply();
  await flushed;

  assert.deepEqual(gateway.requests.map(({ seqs }) => seqs), [[0], [1]]);
});

test("flush() resolves when nobody can be reached", async (t) => {
  const trace = (await Gateway.start(t)).trace("checkout", { url: NOBODY });
  trace.start();

  assert.equal(await trace.flush(), undefined);
});

test("flush() before the start and with nothing to send asks nobody, and what follows is sent", async (t) => {
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.trace();
  await trace.flush();
  trace.start();
  for (const _ of [1, 2, 3]) await trace.flush();
  assert.equal(await gateway.count(), 1);
  trace.step("cart");
  await trace.flush();

  assert.deepEqual(gateway.requests.map(({ seqs }) => seqs), [[0], [1]]);
});

test("what the gateway refuses is said once on the console, and not sent again", async (t) => {
  const refusal = '{"accepted":1,"duplicates":0,"rejected":[{"trace":0,"event":0,"status":422,"detail":"time: no"}]}';
  const console = listen(t);
  const gateway = await Gateway.start(t, (_, index) => (index ? accept() : { body: refusal }));
  const trace = gateway.traced(1);
  await trace.flush();
  trace.step("cart");
  await trace.flush();

  assert.deepEqual(gateway.requests.map(({ seqs }) => seqs), [[0, 1], [2]]);
  assert.deepEqual(gateway.requests.map(({ body }) => body.dropped), [0, 0]);
  assert.deepEqual(console.warnings, [["perf-tracer:", refusal]]);
});

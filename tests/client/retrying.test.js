/** What becomes of events that the gateway does not take at once. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { accept, ACCEPTED, Gateway, listen, stopTime } from "./gateway.js";

const HOUR_MS = 3_600_000;
const HTML = "<!doctype html><title>Sign in to the hotel's network</title>";

/** A trace whose first request has been answered so. */
async function refused(gateway, answer) {
  const trace = gateway.traced(1);
  trace.flush();
  (await gateway.request(0)).reply(answer);
  return trace;
}

const FAILURES = {
  "no answer": "cut",
  429: { status: 429, body: '{"detail":"Not now."}' },
  500: { status: 500, body: "Internal Server Error" },
  502: { status: 502, body: HTML },
  503: { status: 503, body: '{"detail":"Not now."}' },
  "a page instead of JSON": { body: HTML },
  "a redirect to such a page": { status: 302, headers: { location: "/count" } },
  "nothing at all": { body: "" },
  "JSON of somebody else": { body: '{"status":"ok"}' },
  "null": { body: "null" },
  "half of an answer": { headers: { "content-length": "100" }, body: "{" },
};

for (const [name, answer] of Object.entries(FAILURES)) {
  test(`the same events are sent again after ${name}`, async (t) => {
    const clock = stopTime(t);
    const { warnings } = listen(t);
    const gateway = await Gateway.start(t);
    const trace = await refused(gateway, answer);
    if (name == "half of an answer") gateway.hangUp();
    await clock.isRunning();
    clock.tick(1_000);
    const again = await gateway.answer(1, trace);
    await trace.flush();

    assert.deepEqual(again.body.traces, gateway.requests[0].body.traces);
    assert.deepEqual(again.seqs, [0, 1]);
    assert.equal(again.body.dropped, 0);
    assert.equal(await gateway.count(), 2);
    assert.deepEqual(warnings, []);
  });
}

for (const status of [400, 401, 403, 404, 409, 413, 415, 422]) {
  test(`events of a request refused with ${status} go, and are counted`, async (t) => {
    const console = listen(t);
    const detail = `{"detail":"${status}"}`;
    const gateway = await Gateway.start(t, (_, index) => (index ? accept() : { status, body: detail }));
    const trace = gateway.traced(1);
    await trace.flush();
    trace.step("paid");
    await trace.flush();
    trace.step("shipped");
    await trace.flush();

    assert.deepEqual(gateway.requests.map(({ seqs }) => seqs), [[0, 1], [2], [3]]);
    assert.deepEqual(gateway.requests.map(({ body }) => body.dropped), [0, 2, 0]);
    assert.deepEqual(console.warnings, [["perf-tracer:", detail]]);
  });
}

test("what a refused request said about dropped events is said again, with its own", async (t) => {
  listen(t);
  const answers = [{ status: 422 }, { status: 422 }];
  const gateway = await Gateway.start(t, (_, index) => answers[index] ?? ACCEPTED);
  const trace = gateway.traced();
  await trace.flush();
  trace.step("cart");
  await trace.flush();
  trace.step("paid");
  await trace.flush();

  assert.deepEqual(gateway.requests.map(({ body }) => body.dropped), [0, 1, 2]);
});

test("pauses double up to a minute, and begin anew after a success", async (t) => {
  const clock = stopTime(t);
  const gateway = await Gateway.start(t);
  const trace = await refused(gateway, { status: 503 });
  let index = 0;
  for (const seconds of [1, 2, 4, 8, 16, 32, 60, 60, 60]) {
    await clock.isRunning();
    clock.tick(seconds * 1_000 - 1);
    assert.equal(await gateway.count(), index + 1);
    clock.tick(1);
    (await gateway.request(++index)).reply({ status: 503 });
  }
  await clock.isRunning();
  clock.tick(60_000);
  await gateway.answer(++index, trace);
  trace.step("paid");
  clock.tick(1_000);
  (await gateway.request(++index)).reply({ status: 503 });
  await clock.isRunning();
  clock.tick(999);
  assert.equal(await gateway.count(), index + 1);
  clock.tick(1);
  const { seqs } = await gateway.request(++index);

  assert.deepEqual(seqs, [2]);
});

test("pauses are of any length up to that, by chance", async (t) => {
  const clock = stopTime(t, 0.25);
  const gateway = await Gateway.start(t);
  await refused(gateway, "cut");
  for (const [index, pause] of [250, 500, 1_000, 2_000].entries()) {
    await clock.isRunning();
    clock.tick(pause - 1);
    assert.equal(await gateway.count(), index + 1);
    clock.tick(1);
    (await gateway.request(index + 1)).reply("cut");
  }
});

for (const status of [429, 503]) {
  test(`nothing is sent before Retry-After is over: ${status}`, async (t) => {
    const clock = stopTime(t, 0);
    const gateway = await Gateway.start(t);
    await refused(gateway, { status, headers: { "retry-after": "7" } });
    await clock.isRunning();
    clock.tick(6_999);
    assert.equal(await gateway.count(), 1);
    clock.tick(1);
    const { seqs } = await gateway.request(1);

    assert.deepEqual(seqs, [0, 1]);
  });
}

test("who all got the same Retry-After do not come back together", async (t) => {
  const clock = stopTime(t, 0.5);
  const gateway = await Gateway.start(t);
  await refused(gateway, { status: 503, headers: { "retry-after": "7" } });
  await clock.isRunning();
  clock.tick(7_499);
  assert.equal(await gateway.count(), 1);
  clock.tick(1);
  await gateway.request(1);
});

test("events in a pause wait for its end, however many and also those of an end", async (t) => {
  const clock = stopTime(t, 0);
  const gateway = await Gateway.start(t);
  const trace = await refused(gateway, { status: 503, headers: { "retry-after": "7" } });
  await clock.isRunning();
  for (let step = 0; step < 60; step++) trace.step("cart");
  trace.end();
  clock.tick(6_999);
  assert.equal(await gateway.count(), 1);
  clock.tick(1);
  const { seqs } = await gateway.request(1);

  assert.equal(seqs.length, 63);
});

for (const [value, latest] of [
  ["Wed, 21 Oct 2015 07:28:00 GMT", 1_000],
  ["soon", 1_000],
  ["", 1_000],
  ["NaN", 1_000],
  ["0", 1_000],
  ["-5", 1_000],
  ["-Infinity", 1_000],
  ["1e99", HOUR_MS + 1_000],
  ["Infinity", HOUR_MS + 1_000],
  ["9".repeat(400), HOUR_MS + 1_000],
]) {
  test(`Retry-After may say anything, and the pause is neither none nor for ever: ${value.slice(0, 40)}`, async (t) => {
    const clock = stopTime(t);
    const gateway = await Gateway.start(t);
    await refused(gateway, { status: 503, headers: { "retry-after": value } });
    await clock.isRunning();
    clock.tick(999);
    assert.equal(await gateway.count(), 1);
    clock.tick(latest - 999);
    const { seqs } = await gateway.request(1);

    assert.deepEqual(seqs, [0, 1]);
  });
}

test("flush() resolves in a pause, too, and does not reject", async (t) => {
  stopTime(t);
  const gateway = await Gateway.start(t, () => "cut");
  const trace = gateway.traced();
  for (const _ of [1, 2, 3]) assert.equal(await trace.flush(), undefined);

  assert.deepEqual(gateway.requests.map(({ seqs }) => seqs), [[0], [0], [0]]);
});

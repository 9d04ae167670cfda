/** Pages that are hidden or left. A browser is played by its events; tests of a real one are in Python. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { accept, Gateway, numbers, stopTime, walk } from "./gateway.js";

/** What the client knows of a page. Needed before a trace starts; gone at the end of test `t`. */
function openPage(t) {
  const window = new EventTarget();
  const document = { visibilityState: "visible" };
  Object.assign(globalThis, { document, addEventListener: window.addEventListener.bind(window) });
  t.after(() => {
    delete globalThis.document;
    delete globalThis.addEventListener;
  });
  const turn = (state) => {
    document.visibilityState = state;
    window.dispatchEvent(new Event("visibilitychange"));
  };
  return {
    hide: () => turn("hidden"),
    show: () => turn("visible"),
    leave: () => window.dispatchEvent(new Event("pagehide")),
    comeBack: () => window.dispatchEvent(new Event("pageshow")),
  };
}

for (const way of ["hide", "leave"]) {
  test(`what waits goes at once: ${way}`, async (t) => {
    stopTime(t);
    const page = openPage(t);
    const gateway = await Gateway.start(t, accept);
    gateway.traced(2);
    page[way]();
    const { seqs } = await gateway.request(0);

    assert.deepEqual(seqs, [0, 1, 2]);
  });

  test(`nothing is asked for nothing: ${way}`, async (t) => {
    stopTime(t);
    const page = openPage(t);
    const gateway = await Gateway.start(t, accept);
    await gateway.traced().flush();
    page[way]();

    assert.equal(await gateway.count(), 1);
  });
}

test("a page that is left is hidden, too: events go once", async (t) => {
  stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t, accept);
  gateway.traced(2);
  page.hide();
  page.leave();
  await gateway.request(0);

  assert.equal(await gateway.count(), 1);
});

test("a page that is shown sends nothing for that", async (t) => {
  stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t, accept);
  gateway.traced(2);
  page.show();

  assert.equal(await gateway.count(), 0);
});

test("events of a request under way go again, which leaving may cut off", async (t) => {
  stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced(1);
  trace.flush();
  const first = await gateway.request(0);
  trace.step("cart");
  page.leave();
  const last = await gateway.request(1);

  assert.deepEqual([first.seqs, last.seqs], [[0, 1], [0, 1, 2]]);
  assert.equal(last.body.traces[0].run, first.body.traces[0].run);
});

for (const answers of [
  ["cut", undefined],
  [undefined, "cut"],
  [undefined, undefined],
]) {
  for (const order of [
    [0, 1],
    [1, 0],
  ]) {
    const said = answers.map((answer) => answer ?? "taken");
    test(`what one of both requests delivered is delivered: ${said}; ${order} first`, async (t) => {
      const clock = stopTime(t);
      const page = openPage(t);
      const gateway = await Gateway.start(t, (_, index) => (index > 1 ? accept() : undefined));
      const trace = gateway.traced(1);
      const flushed = trace.flush();
      await gateway.request(0);
      page.hide();
      await gateway.request(1);
      for (const index of order) {
        gateway.requests[index].reply(answers[index]);
        await gateway.count();
      }
      await flushed;
      page.show();
      clock.tick(60_000);
      trace.step("cart");
      await clock.isRunning();
      clock.tick(60_000);
      const later = await gateway.request(2);
      await trace.flush();

      assert.deepEqual(later.seqs, [2]);
      assert.equal(await gateway.count(), 3);
    });
  }
}

test("what could not be sent when the page was hidden is sent after a pause", async (t) => {
  const clock = stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t);
  gateway.traced(1);
  page.hide();
  const request = await gateway.request(0);
  // The second is over that began with the first event; there is nothing to send.
  clock.tick(1_000);
  request.reply("cut");
  await clock.isRunning();
  clock.tick(1_000);
  const { seqs } = await gateway.request(1);

  assert.deepEqual(seqs, [0, 1]);
});

test("a page that comes back goes on with its traces", async (t) => {
  const clock = stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.traced(1);
  page.hide();
  await gateway.request(0);
  // The second is over that began with the first event.
  clock.tick(1_000);
  page.show();
  trace.step("cart");
  await clock.isRunning();
  clock.tick(1_000);
  const { seqs } = await gateway.request(1);

  assert.deepEqual(seqs, [2]);
});

test("events that are on their way in a request that outlives the page do not go a third time", async (t) => {
  const clock = stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced(1);
  const flushed = trace.flush();
  await gateway.request(0);
  page.hide();
  await gateway.request(1);
  gateway.requests[0].reply("cut");
  await flushed;
  trace.step("cart");
  await clock.isRunning();
  clock.tick(60_000);
  const { seqs } = await gateway.request(2);

  assert.deepEqual(seqs, [2]);
});

for (const way of ["hide", "leave"]) {
  test(`what is more than a request that outlives the page may have is tried at once, too: ${way}`, async (t) => {
    const clock = stopTime(t);
    const page = openPage(t);
    const gateway = await Gateway.start(t, (_, index) => (index ? accept() : { status: 503 }));
    const trace = gateway.traced();
    await trace.flush();
    await clock.isRunning();
    walk(trace, 100, { attributes: { text: "x".repeat(900) } });
    page[way]();
    await gateway.request(1);
    await gateway.request(2);
    await trace.flush();
    const [, last, rest] = gateway.requests;

    assert.ok(Buffer.byteLength(last.text) > 50_000 && Buffer.byteLength(last.text) < 64 * 1024);
    assert.deepEqual([...last.seqs, ...rest.seqs], numbers(0, 100));
  });
}

test("what is said while the page is left goes at once, too", async (t) => {
  stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced();
  page.leave();
  trace.step("left");
  trace.step("cleaned up");
  const [first, second] = [await gateway.request(0), await gateway.request(1)];

  assert.deepEqual([first.seqs, second.seqs], [[0], [1, 2]]);
});

test("a page that comes back to life sends in batches again", async (t) => {
  const clock = stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t, accept);
  const trace = gateway.traced();
  page.leave();
  await trace.flush();
  page.comeBack();
  trace.step("cart");
  trace.step("pay");
  assert.equal(await gateway.count(), 1);
  clock.tick(1_000);
  const { seqs } = await gateway.request(1);

  assert.deepEqual(seqs, [1, 2]);
});

test("flush() waits for a request that outlives the page as for any other", async (t) => {
  stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t);
  const trace = gateway.traced();
  page.hide();
  let resolved = false;
  const flushed = trace.flush().then(() => (resolved = true));
  const request = await gateway.request(0);
  await gateway.count();
  assert.equal(resolved, false);
  request.reply();
  await flushed;

  assert.equal(await gateway.count(), 1);
});

test("a request that outlives the page has less than the 64 KiB that browsers allow; the rest is tried", async (t) => {
  stopTime(t);
  const page = openPage(t);
  const gateway = await Gateway.start(t, (_, index) => (index ? accept() : undefined));
  const trace = gateway.traced();
  trace.flush();
  await gateway.request(0);
  walk(trace, 100, { attributes: { text: "x".repeat(900) } });
  page.leave();
  const last = await gateway.request(1);
  gateway.requests[0].reply();
  await trace.flush();
  const sent = new Set(gateway.events.map(({ seq }) => seq));

  assert.ok(Buffer.byteLength(last.text) < 64 * 1024);
  assert.deepEqual([...sent], numbers(0, 100));
});

/** Which calls are told that they belong to a trace. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Gateway, NOBODY } from "./gateway.js";

/** Some server; it answers everything with the same. */
const server = (t) => Gateway.start(t, () => ({ status: 201, headers: { "x-from": "server" }, body: "created" }));

/** What `trace` sends to `url` of `api`. */
async function sent(api, trace, input, init) {
  const index = api.requests.length;
  await (await trace.fetch(input, init)).text();
  return api.requests[index];
}

for (const [target, path, isTold] of [
  ["", "/", true],
  ["", "/v1/pay", true],
  ["/", "/v1/pay", true],
  ["/v1", "/v1", true],
  ["/v1", "/v1/", true],
  ["/v1", "/v1/pay", true],
  ["/v1", "/v1?page=2", true],
  ["/v1", "/v2/../v1/pay", true],
  ["/v1/", "/v1", true],
  ["/v1/", "/v1/pay", true],
  ["/v1?page=1", "/v1/pay?page=2", true],
  ["/v1", "/", false],
  ["/v1", "/v10", false],
  ["/v1", "/v1.1/pay", false],
  ["/v1", "/v1-beta", false],
  ["/v1", "/V1/pay", false],
  ["/v1/", "/v10/pay", false],
  ["/v1", "/v2/v1/pay", false],
  ["/v1", "/v2?next=/v1/pay", false],
  ["/v1", "/v1/../v2", false],
  ["/v1/pay", "/v1", false],
]) {
  test(`propagateTo ${target || "an origin"}: ${path} is ${isTold ? "told" : "not told"}`, async (t) => {
    const api = await server(t);
    const trace = api.trace("checkout", { propagateTo: [api.url + target] });
    const { headers, path: asked } = await sent(api, trace, api.url + path);

    assert.equal(headers.traceparent, isTold ? trace.traceparent : undefined);
    assert.equal(asked, new URL(path, api.url).href.slice(api.url.length));
  });
}

test("nobody is told who is not listed, outside of a page", async (t) => {
  const api = await server(t);
  for (const options of [{}, { propagateTo: undefined }, { propagateTo: [] }]) {
    const { headers } = await sent(api, api.trace("checkout", options), api.url);
    assert.equal(headers.traceparent, undefined);
  }
});

test("an origin is scheme, host and port; what looks like one elsewhere is none", async (t) => {
  const [api, other] = [await server(t), await server(t)];
  const { port, host } = new URL(other.url);
  for (const [propagateTo, url] of [
    [`${api.url}/v1`, `${other.url}/v1`],
    [`http://localhost:${port}/v1`, `${other.url}/v1`],
    [`https://${host}/v1`, `${other.url}/v1`],
    [`${api.url}/v1`, `${other.url}/v1?next=${api.url}/v1`],
    [`${api.url}/v1`, `${other.url}/${api.url}/v1`],
    [`${other.url}@${new URL(api.url).host}/v1`, `${other.url}/v1`],
  ]) {
    const { headers } = await sent(other, api.trace("checkout", { propagateTo: [propagateTo] }), url);
    assert.equal(headers.traceparent, undefined, propagateTo);
  }
});

test("one that matches of several is enough", async (t) => {
  const api = await server(t);
  const trace = api.trace("checkout", { propagateTo: [`${NOBODY}/v1`, `${api.url}/v1`, `${api.url}/v2`] });
  const paths = ["/v1", "/v2/pay", "/v3"];
  const told = [];
  for (const path of paths) told.push((await sent(api, trace, api.url + path)).headers.traceparent !== undefined);

  assert.deepEqual(told, [true, true, false]);
});

test("a page's own origin is told without being listed, and no other", async (t) => {
  const [page, other] = [await server(t), await server(t)];
  globalThis.location = new URL(`${page.url}/shop/cart`);
  t.after(() => delete globalThis.location);
  const trace = page.trace("checkout", { propagateTo: ["/v1"] });

  assert.equal((await sent(page, trace, `${page.url}/api/pay`)).headers.traceparent, trace.traceparent);
  assert.equal((await sent(other, trace, `${other.url}/v1/pay`)).headers.traceparent, undefined);
});

test("the header names the run that is going on", async (t) => {
  const api = await server(t);
  const trace = api.trace("checkout", { propagateTo: [api.url], url: NOBODY });
  const told = [];
  for (const _ of [1, 2]) {
    trace.start();
    told.push([(await sent(api, trace, api.url)).headers.traceparent, trace.traceparent]);
  }

  assert.equal(told[0][0], told[0][1]);
  assert.equal(told[1][0], told[1][1]);
  assert.notEqual(told[0][0], told[1][0]);
});

for (const [name, call] of [
  ["a string", (url, init) => [url, init]],
  ["a URL", (url, init) => [new URL(url), init]],
  ["a Request", (url, init) => [new Request(url, init)]],
  ["a Request and more", (url, { body, ...init }) => [new Request(url, { method: "POST" }), { body, ...init }]],
]) {
  for (const kind of [(headers) => headers, (headers) => new Headers(headers), (headers) => Object.entries(headers)]) {
    const headers = kind({ "content-type": "application/x-cart", "x-one": "1", "x-two": "2" });
    test(`method, headers and body go as they were given: ${name}, ${headers.constructor.name}`, async (t) => {
      const api = await server(t);
      const trace = api.trace("checkout", { propagateTo: [api.url] });
      const request = await sent(api, trace, ...call(`${api.url}/pay`, { method: "PUT", headers, body: "a body" }));

      assert.equal(request.method, "PUT");
      assert.equal(request.text, "a body");
      assert.equal(request.headers["content-type"], "application/x-cart");
      assert.deepEqual([request.headers["x-one"], request.headers["x-two"]], ["1", "2"]);
      assert.equal(request.headers.traceparent, trace.traceparent);
    });
  }
}

test("what the caller passed is left as it was", async (t) => {
  const api = await server(t);
  const trace = api.trace("checkout", { propagateTo: [api.url] });
  const headers = new Headers({ "x-one": "1" });
  const init = Object.freeze({ headers });
  const request = new Request(api.url);
  await sent(api, trace, api.url, init);
  await sent(api, trace, request);

  assert.deepEqual([...headers], [["x-one", "1"]]);
  assert.deepEqual([...request.headers], []);
});

test("an older traceparent gives way", async (t) => {
  const api = await server(t);
  const trace = api.trace("checkout", { propagateTo: [api.url] });
  const old = { headers: { Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" } };

  assert.equal((await sent(api, trace, api.url, old)).headers.traceparent, trace.traceparent);
});

test("it answers as fetch does, and rejects as fetch does", async (t) => {
  const api = await server(t);
  const trace = api.trace("checkout", { propagateTo: [api.url, NOBODY] });
  const answer = await trace.fetch(api.url);
  const aborted = trace.fetch(api.url, { signal: AbortSignal.abort(new Error("changed my mind")) });

  assert.deepEqual([answer.status, answer.headers.get("x-from"), await answer.text()], [201, "server", "created"]);
  await assert.rejects(aborted, /changed my mind/);
  await assert.rejects(trace.fetch(NOBODY), TypeError);
  await assert.rejects(trace.fetch("no url"), TypeError);
});

/** What the tests of the client share: a gateway that answers as told, over real HTTP. */

import { createServer, get } from "node:http";

/** @typedef {{ status?: number, headers?: Record<string, string>, body?: string } | "cut"} Answer `cut`: hangs up */

/** @type {Answer} */
export const ACCEPTED = { body: '{"accepted":1,"duplicates":0,"rejected":[]}' };

/** Where nobody listens. */
export const NOBODY = "http://127.0.0.1:1";

/** How long a test waits for something that normally takes far less, before it fails. */
export const PATIENCE_MS = 15_000;

// As they are before a test stops time.
const [setRealTimeout, clearRealTimeout] = [setTimeout, clearTimeout];

/** How often the client was loaded: what an earlier test has left behind is not this one's. */
let loads = 0;

/** Something to wait for. */
class Change {
  #looks = new Set();

  happened() {
    for (const look of this.#looks) look();
  }

  /** What `look` finds, as soon as it finds something. */
  until(look, name) {
    return new Promise((resolve, reject) => {
      const fail = () => reject(new Error(`waited in vain for ${name}`));
      const patience = setRealTimeout(fail, PATIENCE_MS);
      const again = () => {
        const found = look();
        if (!found) return;
        clearRealTimeout(patience);
        this.#looks.delete(again);
        resolve(found);
      };
      this.#looks.add(again);
      again();
    });
  }
}

/**
 * Keeps what it is sent by a client of its own. Without `answer`, or where that says nothing, a request waits until its
 * `reply` is called.
 */
export class Gateway {
  /** @type {Received[]} */
  requests = [];
  #arrival = new Change();
  #server;

  /**
   * Running until the end of test `t`, with a client that was just loaded.
   *
   * @param {(request: Received, index: number) => Answer | void} [answer]
   */
  static async start(t, answer) {
    const gateway = new Gateway();
    const client = await import(`../../gateway/static/perf-tracer.js?${++loads}`);
    gateway.RemoteTrace = client.RemoteTrace;
    gateway.#server = createServer(async (message, response) => {
      const chunks = [];
      for await (const chunk of message) chunks.push(chunk);
      if (message.url == "/count") return response.end();
      const request = new Received(message, Buffer.concat(chunks).toString(), response);
      const index = gateway.requests.push(request) - 1;
      const reply = answer?.(request, index);
      if (reply) request.reply(reply);
      gateway.#arrival.happened();
    });
    await new Promise((resolve) => gateway.#server.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      gateway.#server.close();
      gateway.#server.closeAllConnections();
    });
    return gateway;
  }

  /** Cuts every connection. */
  hangUp() {
    this.#server.closeAllConnections();
  }

  /** Of this gateway, unless `options` says otherwise. */
  trace(name = "checkout", options = {}) {
    return new this.RemoteTrace(name, { url: this.url, ...options });
  }

  /** A trace that has started, and taken so many steps. */
  traced(steps = 0, details = {}) {
    const trace = this.trace();
    trace.start();
    walk(trace, steps, details);
    return trace;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** The request with this index, as soon as it is there. @returns {Promise<Received>} */
  request(index) {
    return this.#arrival.until(() => this.requests[index], `request ${index}`);
  }

  /** How many requests were sent before this one, which is not counted. */
  async count() {
    // A second connection could overtake the one before it, but two in a row don't.
    for (const _ of [1, 2]) {
      await new Promise((resolve, reject) => {
        get(`${this.url}/count`, { agent: false }, (answer) => answer.resume().on("end", resolve)).on("error", reject);
      });
    }
    return this.requests.length;
  }

  /** The request with this index is answered, and `trace`, which sent it, has heard so. @param {Answer} answer */
  async answer(index, trace, answer = ACCEPTED) {
    const request = await this.request(index);
    const heard = trace.flush(); // waits for the request that is under way
    request.reply(answer);
    await heard;
    return request;
  }

  /** Every event that came, in the order of coming. */
  get events() {
    return this.requests.flatMap((request) => request.events);
  }
}

export function walk(trace, steps, details) {
  for (let step = 0; step < steps; step++) trace.step("cart", details);
}

class Received {
  #response;

  constructor(message, text, response) {
    this.method = message.method;
    this.path = message.url;
    this.headers = message.headers;
    this.text = text;
    this.#response = response;
  }

  get body() {
    return JSON.parse(this.text);
  }

  get events() {
    return this.body.traces.flatMap((trace) => trace.events);
  }

  get seqs() {
    return this.events.map((event) => event.seq);
  }

  /** @param {Answer} answer */
  reply(answer = ACCEPTED) {
    if (answer == "cut") return this.#response.destroy();
    this.#response.writeHead(answer.status ?? 200, answer.headers);
    this.#response.end(answer.body ?? "");
  }
}

/** Answers everything with 200. */
export const accept = () => ACCEPTED;

/** The numbers from `first` to `last`. */
export const numbers = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => first + index);

/**
 * The client's time, which passes when a test says so.
 *
 * The mock timers of node:test would stop those of `fetch`, too.
 */
class Clock {
  #now = 0;
  #timers = new Set();
  #setting = new Change();

  set(callback, ms) {
    // As the real one takes it.
    const timer = { callback, at: this.#now + (ms >= 1 && ms < 2 ** 31 ? ms : 1), unref: () => timer };
    this.#timers.add(timer);
    this.#setting.happened();
    return timer;
  }

  /** The client waits for something, as soon as it does. */
  async isRunning() {
    await this.#setting.until(() => this.#timers.size, "a timer");
  }

  /** Whether `timer` was one of this clock. */
  clear(timer) {
    return this.#timers.delete(timer);
  }

  tick(ms) {
    const end = this.#now + ms;
    const due = () => [...this.#timers].sort((one, other) => one.at - other.at).find(({ at }) => at <= end);
    for (let timer = due(); timer; timer = due()) {
      this.#timers.delete(timer);
      this.#now = timer.at;
      timer.callback();
    }
    this.#now = end;
  }
}

/** Until the end of test `t`, the client's time stands still but for `tick`, and chance is what `random` says. */
export function stopTime(t, random = 1 - Number.EPSILON) {
  const clock = new Clock();
  globalThis.setTimeout = (callback, ms, ...values) => {
    const [, , caller] = new Error().stack.split("\n");
    const isTheClients = caller.includes(`/perf-tracer.js?${loads}:`);
    return isTheClients ? clock.set(callback, ms) : setRealTimeout(callback, ms, ...values);
  };
  globalThis.clearTimeout = (timer) => clock.clear(timer) || clearRealTimeout(timer);
  t.after(() => Object.assign(globalThis, { setTimeout: setRealTimeout, clearTimeout: clearRealTimeout }));
  t.mock.method(Math, "random", () => random);
  return clock;
}

/** What is written to the console instead. @returns {{ readonly warnings: unknown[][] }} */
export function listen(t) {
  const { mock } = t.mock.method(console, "warn", () => {});
  return {
    get warnings() {
      return mock.calls.map((call) => call.arguments);
    },
  };
}

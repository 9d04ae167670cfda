/**
 * Tells a gateway of traces. Nothing here throws or rejects.
 *
 * @typedef {{ id?: string | number | null, url?: string, key?: string, service?: string, propagateTo?: string[] }} TraceOptions
 *   `url`: the gateway's; else the page's origin. `propagateTo`: URLs that `fetch` sends `traceparent` to.
 * @typedef {{ attributes?: Record<string, unknown>, time?: number }} Details `time`: as `performance.now()`
 * @typedef {Details & { error?: unknown }} EndDetails
 * @typedef {EndDetails & { track?: boolean, end?: boolean }} StepDetails `track: false`: waited for somebody
 */

const outboxes = {};

/** Keeps events until they are answered for. Each counts once: a page that hides sends all again. */
const outbox = (endpoint) => {
  let events = []; // `sent`: 0 waiting, 1 in a request, 2 in one that outlives the page
  let dropped = 0;
  let failures = 0;
  let count = 0;
  let bytes = 0;
  let due, timer, running, hiding, gone;

  const later = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(flush, ms);
    timer.unref?.(); // lets Node end
  };

  const chunk = (sent) => {
    let room = 6e4; // keepalive requests share 64 KiB
    const waiting = events.filter((event) => event.sent < sent);
    const batch = waiting.filter((event, index) => (room -= event.size) > 0 || !index);
    due = batch.length < waiting.length;
    return batch;
  };

  const post = async (batch, sent) => {
    const lost = dropped;
    const traces = {};
    let pause;
    dropped = 0;
    for (const event of batch) {
      event.sent = sent;
      (traces[event.head] ??= []).push(event.json);
    }
    try {
      // As text: no preflight.
      const answer = await fetch(endpoint, {
        method: "POST",
        body: `{"sent_at":${Date.now()},"dropped":${lost},"traces":[${Object.entries(traces).map(
          ([head, json]) => `${head},"events":[${json}]}`,
        )}]}`,
        keepalive: sent > 1,
        signal: AbortSignal.timeout(3e4),
      });
      const text = await answer.text();
      pause = answer.headers.get("retry-after");
      if (answer.status == 429 || answer.status > 499) throw text;
      if (answer.ok ? JSON.parse(text).rejected[0] : (dropped += lost + batch.length)) console.warn("perf-tracer:", text);
      events = events.filter((event) => !batch.includes(event));
      failures = 0;
    } catch {
      dropped += lost;
      for (const event of batch) if (event.sent == sent) event.sent = 0;
      return (Math.min(Math.max(pause, 0), 3600) || 0) * 1e3 + Math.random() * Math.min(6e4, 1e3 * 2 ** failures++);
    }
  };

  const flush = () =>
    (running ??= (async () => {
      let wait;
      clearTimeout(timer);
      timer = count = bytes = 0;
      do {
        const batch = chunk(1);
        wait = await (batch[0] && post(batch, 1));
      } while (due && !wait);
      running = null;
      if (events.some((event) => !event.sent)) later(wait || 1e3);
    })());

  const hide = () => {
    const batch = chunk(2);
    if (batch[0]) hiding = post(batch, 2).then((wait) => wait && later(wait));
    if (due) flush();
  };
  globalThis.addEventListener?.("pagehide", () => {
    gone = true;
    hide();
  });
  globalThis.addEventListener?.("pageshow", () => (gone = false));
  globalThis.addEventListener?.("visibilitychange", () => document.visibilityState == "hidden" && hide());

  return {
    push(head, json, urgent) {
      const size = new TextEncoder().encode(events.at(-1)?.head == head ? json : head + json).length;
      events.push({ head, json, size, sent: 0 });
      if (events.length > 1e3) {
        events.splice(events.findIndex((event) => !event.sent), 1);
        dropped++;
      }
      if (gone) queueMicrotask(hide);
      due ||= urgent || ++count > 49 || (bytes += size) > 16383;
      if (due && !failures) flush();
      else if (!timer && !running) later(1e3);
    },
    flush() {
      due = true;
      return Promise.all([flush(), hiding]);
    },
  };
};

const hex = (bytes) =>
  [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const measure = (name, start, end) => {
  performance.measure((name = `perf-tracer: ${name}`), { start, end });
  performance.clearMeasures(name);
};

/** What is said before `start` or after the end is ignored. */
export class RemoteTrace {
  #name;
  #options;
  #traceId = hex(16);
  #spanId = hex(8);
  #seq = 0;
  #head;
  #epoch;
  #started;
  #last;
  #outbox;

  /** @param {string} name @param {TraceOptions} [options] */
  constructor(name, options) {
    this.#name = name;
    this.#options = options || {};
  }

  get traceparent() {
    return `00-${this.#traceId}-${this.#spanId}-01`;
  }

  /** @param {Details} [details] */
  async start(details) {
    this.#say("start", details);
  }

  /** Names the time since the last mark. @param {string} name @param {StepDetails} [details] */
  async step(name, details) {
    this.#say("step", details, name);
  }

  /** @param {EndDetails} [details] */
  async end(details) {
    this.#say("end", details);
  }

  /** Resolves when all is answered for. */
  async flush() {
    await this.#outbox?.flush();
  }

  /** @type {typeof fetch} */
  fetch = (input, init) => {
    let request;
    try {
      request = new Request(input, init);
      const { origin, pathname } = new URL(request.url);
      const matches = (target) => {
        const to = new URL(target);
        return to.origin == origin && `${pathname}/`.startsWith(to.pathname.replace(/\/?$/, "/"));
      };
      if (origin == globalThis.location?.origin || this.#options.propagateTo?.some(matches))
        request.headers.set("traceparent", this.traceparent);
    } catch {}
    return request ? fetch(request) : fetch(input, init);
  };

  #say(type, details, step) {
    try {
      const { attributes, error, time = performance.now(), track, end = type == "end" } = details || {};
      if (type == "start") {
        const { id, url, key, service } = this.#options;
        if (this.#seq) [this.#traceId, this.#spanId] = [hex(16), hex(8)];
        const endpoint = `${String(url ?? "").replace(/\/+$/, "")}/api/tracing/batch${key ? `?key=${encodeURIComponent(key)}` : ""}`;
        this.#outbox = outboxes[endpoint] ??= outbox(endpoint);
        this.#head = JSON.stringify({
          trace_tag: String(this.#name),
          trace_id: id?.toString(),
          run: this.#spanId,
          service,
          otel_trace_id: this.#traceId,
          otel_span_id: this.#spanId,
        }).slice(0, -1);
        this.#epoch = Date.now() - performance.now(); // which stops in sleep
        this.#seq = 0;
        this.#started = time;
      }
      if (!this.#head) return;
      const event = {
        seq: this.#seq++,
        type,
        time: Math.round((this.#epoch + time) * 1e3) / 1e3,
        step_name: type == "step" ? String(step) : step,
        track_duration: track === false ? track : undefined,
        end_trace: end || undefined,
        error: error
          ? { type: error.name ?? error.type, message: String(error.message ?? error), stack: error.stack }
          : undefined,
      };
      let json = JSON.stringify(event);
      try {
        json = JSON.stringify({ ...event, attributes });
      } catch {} // goes without
      this.#outbox.push(this.#head, json, end);
      const from = this.#last;
      this.#last = time;
      if (end) this.#head = "";
      if (step) measure(`${this.#name}: ${step}`, from, time);
      if (end) measure(this.#name, this.#started, time);
    } catch {}
  }
}

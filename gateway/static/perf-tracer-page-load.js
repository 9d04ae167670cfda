import { RemoteTrace } from "./perf-tracer.js";

/** The phases of a page load in their order, each by the entry of PerformanceNavigationTiming that it ends with. */
const PHASES = {
  redirect: "fetchStart",
  dns: "domainLookupEnd",
  connect: "connectEnd",
  request: "responseStart",
  response: "responseEnd",
  dom: "domContentLoadedEventEnd",
  load: "loadEventEnd",
};

/**
 * Tells the gateway about this page's load, as one trace with a step for each phase, once it is loaded. Nothing here
 * throws or rejects; it does nothing outside of a page.
 *
 * @param {string} [name] the trace's; "page-load" by default
 * @param {import("./perf-tracer.js").TraceOptions & { attributes?: Record<string, unknown> }} [options]
 * @returns {void}
 */
export function tracePageLoad(name = "page-load", options = {}) {
  if (!globalThis.document) return;
  // The load event's own end is known after it only.
  const report = () => setTimeout(tell, 0, name, options);
  if (document.readyState === "complete") report();
  else addEventListener("load", report, { once: true });
}

/**
 * @param {string} name
 * @param {import("./perf-tracer.js").TraceOptions & { attributes?: Record<string, unknown> }} options
 */
function tell(name, options) {
  const [entry] = performance.getEntriesByType("navigation");
  if (!entry) return;
  const navigation = /** @type {PerformanceNavigationTiming & { activationStart?: number }} */ (entry);
  // A page rendered ahead is loaded for whoever looks at it from its activation on.
  // https://developer.mozilla.org/en-US/docs/Web/API/PerformanceNavigationTiming/activationStart
  const start = navigation.activationStart ?? 0;
  const trace = new RemoteTrace(name, options);
  trace.start({
    time: start,
    attributes: {
      // Without the query, which may hold what nobody should see.
      "url.path": location.pathname,
      "navigation.type": navigation.type,
      "network.protocol.name": navigation.nextHopProtocol || undefined,
      "http.response.body.size": navigation.encodedBodySize,
      ...options?.attributes,
    },
  });
  for (const [phase, end] of Object.entries(PHASES)) {
    const time = navigation[/** @type {"loadEventEnd"} */ (end)];
    trace.step(phase, { time: Math.max(time, start), end: phase === "load" });
  }
}

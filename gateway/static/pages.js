/** Makes the pages live: they are whole without it. */

const POLL_MS = 800;

/** Moments in the zone of whoever looks; the exact value stays on hover. */
function localize(root) {
  for (const time of root.querySelectorAll("time:not(.age)")) {
    const at = new Date(time.dateTime);
    time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

/** About two units, as the server writes durations. */
function age(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const [unit, name, smaller, smallerName] =
    seconds < 3600 ? [60, "min", 1, "s"] : seconds < 86400 ? [3600, "h", 60, "min"] : [86400, "d", 3600, "h"];
  const rest = Math.floor((seconds % unit) / smaller);
  return `${Math.floor(seconds / unit)} ${name}${rest ? ` ${rest} ${smallerName}` : ""}`;
}

/** What the gateway's clock is ahead of ours by, in ms; to the second. */
let ahead = 0;

function countOn() {
  for (const time of document.querySelectorAll("time.age")) {
    time.textContent = age(Math.max(0, Math.floor((Date.now() + ahead - Date.parse(time.dateTime)) / 1000)));
  }
}

/** The same element in a new region, where there is one: by id, or by what a link leads to. */
function counterpart(element, region) {
  if (element.id) return region.querySelector(`#${CSS.escape(element.id)}`);
  const href = element.getAttribute("href");
  return href ? [...region.querySelectorAll("a")].find((link) => link.getAttribute("href") === href) : null;
}

/** Puts a region in the place of an old one; what was open stays open, and the focus stays where it was. */
function replace(old, region) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  for (const details of old.querySelectorAll("details[id][open]")) counterpart(details, region)?.setAttribute("open", "");
  const scrolled = [...old.querySelectorAll(".wide")].map((box) => box.scrollLeft);
  localize(region);
  old.replaceWith(region);
  region.querySelectorAll(".wide").forEach((box, index) => (box.scrollLeft = scrolled[index] ?? 0));
  if (focused) counterpart(focused, region)?.focus({ preventScroll: true });
}

const connection = document.getElementById("connection");
let etag = document.querySelector("meta[name=etag]")?.content;

const TROUBLE = { 404: "This is gone: it was deleted, or too old." };

async function refresh() {
  let answer;
  try {
    answer = await fetch(location.href, { headers: { "If-None-Match": etag }, signal: AbortSignal.timeout(10_000) });
    const date = Date.parse(answer.headers.get("date"));
    if (Math.abs(date - Date.now()) > 2000) ahead = date - Date.now();
    if (answer.status === 200) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const region = page.getElementById(old.id);
        if (region) replace(old, document.adoptNode(region));
      }
      etag = answer.headers.get("etag");
      countOn();
    }
  } catch {}
  const isWell = answer?.ok || answer?.status === 304;
  connection.textContent = isWell ? "" : (TROUBLE[answer?.status] ?? "No answer from the gateway: this may be old.");
}

/** One question at a time, and none while nobody looks. */
function poll() {
  if (document.visibilityState === "visible") refresh().then(() => setTimeout(poll, POLL_MS));
  else document.addEventListener("visibilitychange", poll, { once: true });
}

/** A button beside what is there to be copied. */
for (const example of document.querySelectorAll("pre.copy")) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(example.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(example);
    }
  });
  example.before(button);
}

localize(document);
countOn();
setInterval(countOn, 1000);
if (etag) setTimeout(poll, POLL_MS);

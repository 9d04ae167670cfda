/** The class that pages used before there was one for batches: each call is a request, and waits for its answer. */
export class RemoteTrace {
  constructor(name, { id = null, url }) {
    this.name = name;
    this.id = id;
    this.url = url;
  }

  async start() {
    await this.#post("start", {});
  }

  async step(name, { track = true, end = false } = {}) {
    await this.#post("step", { step_name: name, end_trace: end, track_duration: track });
  }

  async end() {
    await this.#post("end", {});
  }

  async #post(event, fields) {
    const answer = await fetch(`${this.url}/api/tracing/${event}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" }, // asks for a preflight
      body: JSON.stringify({ ...fields, trace_tag: this.name, trace_id: this.id }),
    });
    if (!answer.ok) throw new Error(`${event}: ${answer.status}`);
    return await answer.json();
  }
}

// The server, as the page sees it. What goes wrong is an Error whose text is for the user.

export class Refused extends Error {
  constructor(text, status, answer) {
    super(text);
    this.status = status;
    this.answer = answer;
  }
}

export class Server {
  constructor() {
    this.inspector = null; // the server's own until one is named
  }

  async ask(path, query = {}, options = {}) {
    const named = this.inspector === null ? query : { ...query, inspector: this.inspector };
    let response;
    try {
      response = await fetch(`api/${path}?${new URLSearchParams(named)}`, options);
    } catch {
      throw new Refused("the server does not answer: is `broadline inspect` still running? Nothing was lost", 0, {});
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Refused(answer.error ?? `the server says ${response.status}`, response.status, answer);
    return answer;
  }

  post(path, content) {
    const body = JSON.stringify(content);
    return this.ask(path, {}, { method: "POST", body, headers: { "Content-Type": "application/json" } });
  }

  project() { return this.ask("project"); }
  queues() { return this.ask("queues"); }
  queue(asked) { return this.ask("queue", asked); }
  spectrum(row, adjudicate) { return this.ask(`spectrum/${row}`, adjudicate ? { adjudicate } : {}); }
  rule(verdict) { return this.post("verdict", verdict); }
  undo() { return this.post("undo", {}); }
  statistics() { return this.ask("statistics"); }
  bring(file) { return this.ask("import", {}, { method: "POST", body: file }); }

  exports() {
    const kinds = { "prospect.csv": "VI csv", "truth.csv": "Truth csv", "truth.parquet": "Truth parquet" };
    return Object.entries(kinds).map(([name, text]) => ({ text, href: `api/export/${name}`, download: "" }));
  }
}

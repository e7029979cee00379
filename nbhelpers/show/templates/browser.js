// Reads a run's samples: `new Browser(root, source, ...)`, where the source finds groups and hands them over
// (page_source.js from the page itself, kernel_source.js from a kernel), and cards.js says what they look like.

// A table as the world's programs read it; a cell that a spreadsheet would take for a formula gets a quote before it.
function asCsv(rows) {
  const names = [...new Set(rows.flatMap(Object.keys))];
  const cell = (value) => {
    const text = typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [names, ...rows.map((row) => names.map((name) => row[name]))];
  return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
}

const asJsonl = (rows) => rows.map((row) => JSON.stringify(row) + "\n").join("");

function exportRow(group, place, role, info, notes) {
  const { pieces, text, rewards, cut, tokens, ...row } = group.rows[place], { trees, ...problem } = group.problem;
  const key = `${group.key}/${place}`, paid = rewards.map((value, at) => ["reward_" + info.rewards[at], value]);
  return { key, role, step: group.step, ...problem, completion: text, ...row, cut_off: cut, ...Object.fromEntries(paid),
    marked: notes.has(key), note: notes.get(key) ?? "" };
}

function save(name, text) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  element("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}

const KEYS = { "j, k": "next, previous group", "← →": "turn the page", "n, p": "next, previous hit", "/": "search",
  m: "mark", d: "differences", z: "zoom", Esc: "close", "?": "this line" };
const FIRST = { role: "rollout", show: "all", kind: "", error: "", step: "", order: "sampled", text: "", pid: "",
  marked: "" };

class Browser {
  constructor(root, source, { perPage, address = null }) {
    Object.assign(this, { root, source, info: source.info, perPage, address, cards: [], found: [], at: 0, first: 0 });
    this.turn = 0;
    this.state = { ...FIRST, role: this.info.first ?? FIRST.role };
    if (!this.view()) this.state.role = this.info.views[0].role;
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own keys stay out of here
    this.controls();
    root.addEventListener("keydown", (event) => this.key(event));
    if (address) {
      this.read();
      window.addEventListener("hashchange", () => {
        if (location.hash !== this.written) { this.read(); this.fill(); this.select(this.wanted); }
      });
      document.addEventListener("keydown", (event) => { if (!root.contains(event.target)) this.key(event); });
    }
    this.fill();
    this.select(this.wanted);
  }

  view() { return this.info.views.find((view) => view.role === this.state.role); }

  controls() {
    const input = (name, given) => (this.inputs[name] = element(given.type ? "input" : "select", given));
    const select = (name, label) => element("label", {}, label + " ",
      input(name, { onchange: (event) => this.change(name, event.target.value) }));
    this.inputs = {};
    const step = input("step", { type: "range", min: "0", oninput: ({ target }) =>
      this.change("step", target.value === "0" ? "" : String(this.view().steps[target.value - 1])) });
    const text = input("text", { type: "search", placeholder: "id, question, answer, completion, reason",
      oninput: () => {
        clearTimeout(this.waiting);
        this.waiting = setTimeout(() => this.change("text", text.value), 200);
      } });
    const marked = input("marked", { type: "checkbox",
      onchange: ({ target }) => this.change("marked", target.checked ? "1" : "") });
    this.stepName = element("output", "step-name");
    this.stepLabel = element("label", {}, "step ", step, this.stepName);
    this.hitName = element("output", "hits");
    this.back = button("‹", "turn back (left arrow)", () => this.page(-1), "back");
    this.forward = button("›", "turn on (right arrow)", () => this.page(1), "forward");
    this.place = element("output", { className: "place", "aria-live": "polite" });
    this.all = button("every problem again", "leave this problem", () => this.change("pid", ""), "all");
    this.help = element("p", "keys",
      ...Object.entries(KEYS).flatMap(([key, does]) => [element("kbd", {}, key), ` ${does}  `]));
    this.body = element("div", "groups");
    this.said = element("p", "note said");
    this.root.append(
      element("div", { className: "controls", role: "search", "aria-label": "which samples to show" },
        select("role", "look at"), select("show", "show"), select("kind", "kind"), select("error", "error"),
        select("order", "sort by"), this.stepLabel, element("label", {}, "search ", text), this.hitName,
        element("label", {}, marked, " marked only"),
        element("span", "pager", this.back, this.place, this.forward), this.all, this.menu()),
      this.help, this.said, this.body);
  }

  menu() {
    const item = (label, act) => button(label, label, act);
    const forms = ["jsonl", "csv"].flatMap((form) => [
      item(`marks as ${form.toUpperCase()}`, () => this.export("marks", form)),
      item(`this selection as ${form.toUpperCase()}`, () => this.export("selection", form))]);
    const refresh = async () => {
      this.info = await this.source.refresh();
      this.fill();
      this.select(this.current()?.key);
    };
    return element("details", "exports", element("summary", {}, "export"), element("div", "menu", ...forms,
      this.source.refresh ? item("take in what was written since", refresh) : null));
  }

  // state

  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(FIRST)) this.state[name] = given.get(name) ?? FIRST[name];
    if (!this.view()) this.state.role = this.info.views[0].role;
    if (!(this.state.show in this.view().filters)) this.state.show = FIRST.show;
    if (!(this.state.order in this.info.orders)) this.state.order = FIRST.order;
    this.wanted = given.get("at") ?? undefined;
    this.written = location.hash;
  }

  write() {
    if (!this.address) return;
    const given = new URLSearchParams(Object.entries(this.state).filter(([name, value]) => value !== FIRST[name]));
    if (this.current()) given.set("at", this.current().key);
    this.written = "#" + given;
    try { history.replaceState(null, "", this.written); } catch { location.replace(this.written); }
  }

  fill() {
    const view = this.view(), { inputs, state } = this;
    const labelled = (of) => Object.entries(of).map(([key, label]) => [label, key]);
    const options = {
      role: this.info.views.map((one) => [`${one.label} (${one.count.toLocaleString("en")})`, one.role]),
      show: labelled(view.filters),
      kind: [["every kind", ""], ...view.kinds.map((kind) => [kind, kind])],
      error: [["any", ""], ...this.info.errors.map((kind) => [kind, kind])],
      order: labelled(this.info.orders),
    };
    for (const [name, pairs] of Object.entries(options)) {
      inputs[name].replaceChildren(...pairs.map(([label, value]) => choice(label, value)));
    }
    for (const name of [...Object.keys(options), "text"]) inputs[name].value = state[name];
    inputs.marked.checked = state.marked === "1";
    inputs.step.max = view.steps.length;
    inputs.step.value = state.step === "" ? 0 : view.steps.indexOf(Number(state.step)) + 1;
    this.stepLabel.hidden = view.steps.length < 2;
    this.named();
  }

  named() {
    this.stepName.textContent = this.state.step === "" ? "every" : this.state.step;
    this.inputs.step.setAttribute("aria-valuetext", this.stepName.textContent);
    this.all.hidden = this.state.pid === "";
  }

  change(name, value) {
    const here = this.current(), { role } = this.state;
    if (name !== "pid" && name !== "marked") this.state.pid = "";
    if (name === "pid" && value) Object.assign(this.state, FIRST, { role, marked: this.state.marked });
    if (name === "role") Object.assign(this.state, { show: "all", kind: "", step: "" });
    this.state[name] = value;
    if (name === "role" || name === "pid") this.fill();
    this.named();
    this.select(name === "role" ? undefined : here?.key, here?.step);
  }

  // finding and drawing

  current() { return this.cards[this.at]?.group; }

  async groups(role, numbers, pictures) {
    const named = (fields, values) => Object.fromEntries(fields.map((name, at) => [name, values[at] ?? null]));
    const { problem: of, row: in_row } = this.info.fields;
    return (await this.source.groups(role, numbers, pictures)).map((group) =>
      ({ ...group, problem: named(of, group.problem), rows: group.rows.map((row) => named(in_row, row)) }));
  }

  // `drawing` ends with what is drawn now, or with nothing where something else is asked for meanwhile; `aim` is the
  // place that it brings, undefined as long as that is looked for. Keys count from there: a kernel may take its time.
  // `still` says that the cards are those of `found`.
  select(key, step) { return (this.drawing = this.selected(key, step)); }

  draw(place) { return (this.drawing = this.drawn(place, ++this.turn)); }

  async selected(key, step) {
    const mine = ++this.turn;
    this.aim = undefined;
    this.still = false;
    const found = await this.source.find(this.state, key, step);
    if (mine !== this.turn) return false;
    this.found = found.numbers;
    return this.drawn(found.place ?? 0, mine);
  }

  async drawn(place, mine) {
    this.aim = place;
    this.still = false;
    const first = place - (place % this.perPage);
    const groups = await this.groups(this.state.role, this.found.slice(first, first + this.perPage), true);
    if (mine !== this.turn) return false;
    this.first = first;
    this.still = true;
    const pages = Math.max(1, Math.ceil(this.found.length / this.perPage)), page = this.first / this.perPage + 1;
    const what = this.state.role === "rollout" ? "group" : "problem", count = counted(this.found.length, what);
    this.place.textContent = !this.found.length ? `no ${what} matches`
      : this.perPage === 1 ? `${what} ${page.toLocaleString("en")} of ${this.found.length.toLocaleString("en")}`
      : `page ${page} of ${pages} (${count})`;
    this.back.disabled = page <= 1;
    this.forward.disabled = page >= pages;
    this.cards = groups.map((group) => ({ group, card: this.groupCard(group) }));
    const focused = this.body.contains(document.activeElement);
    this.body.replaceChildren(...this.cards.map((one) => one.card));
    this.said.textContent = this.found.length ? this.view().note : "Nothing matches; widen the filters.";
    this.highlight();
    this.go(place - this.first, false);
    // Not out of here, where keys do other things.
    if (focused) (this.cards[this.at]?.card ?? this.root).focus({ preventScroll: true });
    return true;
  }

  go(at, scroll = true) {
    this.at = at;
    this.aim = this.first + at;
    this.cards.forEach((one, place) => one.card.classList.toggle("current", place === at));
    if (scroll && this.cards[at]) {
      this.cards[at].card.scrollIntoView({ block: "nearest" });
      this.cards[at].card.focus({ preventScroll: true });
    }
    this.write();
  }

  async page(by) {
    while (this.aim === undefined) await this.drawing;
    const place = this.aim - (this.aim % this.perPage) + by * this.perPage;
    if (place < 0 || place >= this.found.length) return;
    if (!(await this.draw(place))) return;
    if (this.address) window.scrollTo(0, 0); else this.body.scrollTop = 0;
  }

  async step(by) {
    while (this.aim === undefined) await this.drawing;
    const place = this.aim + by;
    if (place < 0 || place >= this.found.length) return;
    const shown = this.still && place >= this.first && place < this.first + this.cards.length;
    if (shown || await this.draw(place)) this.go(place - this.first);
  }

  groupCard(group) {
    const { pid, kind } = group.problem, { rows } = group;
    const bold = (label, text) => element("span", {}, label, element("b", {}, visible(text)));
    const right = element("b", {}, String(rows.filter((row) => row.correct).length));
    const completions = rows.map((row, place) => {
      const made = completionCard(row, this.info);
      made.querySelector(".verdict").append(this.star(`${group.key}/${place}`, made));
      return made;
    });
    const side = element("div", "side", element("div", "completions n" + rows.length, ...completions));
    const link = (label, title, act, name = "") => button(label, title, act, ("link " + name).trim());
    const head = element("div", "head",
      group.step === null ? null : bold("step ", String(group.step)), bold("problem ", pid),
      kind ? bold("kind ", kind) : null, element("span", {}, right, ` of ${rows.length} right`),
      group.flat ? element("span", {}, "zero variance: this group teaches nothing") : null,
      group.visits > 1 && !this.state.pid
        ? link(`this problem through training (${group.visits})`, "its groups, step by step",
          () => this.change("pid", pid))
        : null,
      rows.length > 1
        ? link("differences", "words that differ between two completions (d)",
          () => toggle(side, ".differences", () => side.prepend(differences(rows))), "diff-button")
        : null,
      rows.some((row) => row.tokens)
        ? link("words", "each token's log-probability when it was sampled (w)",
          () => toggle(side, ".words", () => rows.forEach((row, place) => {
            if (row.tokens) completions[place].append(colouredWords(row));
          })), "words-button")
        : null);
    return element("section", { className: "group", tabIndex: -1, "aria-label": `problem ${pid}` }, head,
      element("div", "body", problemCard(group.problem, group.picture, this.info.square), side));
  }

  // marks

  star(key, card) {
    const notes = this.source.marks;
    const note = element("input", { className: "remark", type: "text", placeholder: "note",
      "aria-label": "note on this sample", onchange: () => this.mark(key, note.value, show) });
    const star = button("", "mark this sample (m)", () => this.mark(key, notes.has(key) ? null : "", show), "star");
    const show = () => {
      star.textContent = notes.has(key) ? "★ marked" : "☆ mark";
      star.setAttribute("aria-pressed", String(notes.has(key)));
      note.hidden = !notes.has(key);
      note.value = notes.get(key) ?? "";
    };
    card.append(note);
    show();
    return star;
  }

  async mark(key, note, show) {
    const notes = this.source.marks;
    if (note === null) notes.delete(key); else notes.set(key, note);
    show();
    await this.source.keep(key, note);
  }

  async export(what, form) {
    const rows = [], notes = this.source.marks, file = `${this.info.run}-${what}.${form}`;
    for (const { role } of what === "marks" ? this.info.views : [this.view()]) {
      const numbers = what === "selection" ? this.found
        : (await this.source.find({ ...FIRST, role, marked: "1" })).numbers;
      for (let from = 0; from < numbers.length; from += 500) {
        for (const group of await this.groups(role, numbers.slice(from, from + 500), false)) {
          group.rows.forEach((_, place) => {
            const wanted = what === "selection" || notes.has(`${group.key}/${place}`);
            if (wanted) rows.push(exportRow(group, place, role, this.info, notes));
          });
        }
      }
    }
    this.exported = (form === "csv" ? asCsv : asJsonl)(rows);
    save(file, this.exported);
    this.said.textContent = `${counted(rows.length, "completion")} written to ${file}.`;
  }

  // hits of the search

  highlight() {
    const wanted = this.state.text.trim();
    this.hits = [];
    this.hit = -1;
    if (wanted) {
      const pattern = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu");
      this.cards.forEach(({ card }, at) => {
        for (const fold of card.querySelectorAll(".fold")) fold.fill();
        const walk = document.createTreeWalker(card, NodeFilter.SHOW_TEXT), texts = [];
        while (walk.nextNode()) {
          const inside = walk.currentNode.parentElement;
          if (inside.closest(".text, .head b") && !inside.closest("math, .raw")) texts.push(walk.currentNode);
        }
        for (const text of texts) this.wrap(text, pattern, at);
      });
    }
    this.hitName.textContent = wanted && this.found.length ? `${counted(this.hits.length, "hit")} here` : "";
  }

  wrap(node, pattern, at) {
    const part = document.createDocumentFragment();
    let place = 0;
    for (const found of node.data.matchAll(pattern)) {
      const hit = element("mark", "hit", found[0]);
      part.append(node.data.slice(place, found.index), hit);
      this.hits.push({ hit, at });
      place = found.index + found[0].length;
    }
    if (place) { part.append(node.data.slice(place)); node.replaceWith(part); }
  }

  async nextHit(by) {
    while (!this.still) await this.drawing;
    if (!this.state.text.trim()) return;
    let next = this.hit + by;
    if (next < 0 || next >= this.hits.length) {
      const place = this.first + by * this.perPage;
      if (place < 0 || place >= this.found.length) return;
      if (!(await this.draw(place))) return;
      next = by > 0 ? 0 : this.hits.length - 1;
    }
    if (!this.hits[next]) return;
    this.hits[this.hit]?.hit.classList.remove("now");
    this.hit = next;
    const { hit, at } = this.hits[next];
    hit.classList.add("now");
    for (let fold = hit.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    this.go(at, false);
    hit.scrollIntoView({ block: "center" });
    this.hitName.textContent = `hit ${next + 1} of ${this.hits.length} here`;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { target, key } = event, { inputs } = this;
    const onCard = (act) => async () => { // not on one that is being replaced
      while (!this.still) await this.drawing;
      const card = this.cards[this.at]?.card;
      if (card) act(card);
    };
    const click = (selector) => onCard((card) => card.querySelector(selector)?.click());
    const acts = {
      j: () => this.step(1), k: () => this.step(-1), ArrowRight: () => this.page(1), ArrowLeft: () => this.page(-1),
      n: () => this.nextHit(1), p: () => this.nextHit(-1), "/": () => inputs.text.focus(),
      "?": () => { this.help.hidden = !this.help.hidden; },
      m: onCard((card) => (document.activeElement?.closest?.(".completion") ?? card).querySelector(".star").click()),
      d: click(".diff-button"), w: click(".words-button"), z: onCard((card) => toggleZoom(card)),
      Escape: () => {
        for (const one of this.cards) toggleZoom(one.card, false);
        for (const shown of this.root.querySelectorAll(".differences")) shown.remove();
        target.blur?.();
        this.root.focus?.({ preventScroll: true });
      },
    };
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName) && target.type !== "checkbox";
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -1e6, End: 1e6 };
    if (key === "Enter" && target === inputs.text) {
      clearTimeout(this.waiting);
      this.change("text", target.value);
      target.blur();
      this.root.focus({ preventScroll: true });
    } else if (target === inputs.step && key in moves) { // JupyterLab leaves a slider no arrow keys
      target.value = Number(target.value) + moves[key];
      target.dispatchEvent(new Event("input"));
    } else if ((!typing || key === "Escape") && key in acts) {
      event.stopPropagation();
      acts[key]();
    } else return;
    event.preventDefault();
  }
}

// Takes away what is shown, or else shows it.
function toggle(within, selector, show) {
  const shown = within.querySelectorAll(selector);
  for (const one of shown) one.remove();
  if (!shown.length) show();
}

// The groups of a run, asked of the kernel that reads them: viewer.py.
class KernelSource {
  constructor(model, info) {
    Object.assign(this, { model, info, marks: new Map(Object.entries(info.marks)), waiting: new Map(), asked: 0 });
    model.on("msg:custom", (message) => { this.waiting.get(message.id)?.(message.answer); this.waiting.delete(message.id); });
  }

  ask(what, more = {}) {
    return new Promise((resolve) => {
      const id = ++this.asked;
      this.waiting.set(id, resolve);
      this.model.send({ id, ask: what, ...more });
    });
  }

  find(state, key, step) { return this.ask("find", { state, key: key ?? null, step: step ?? null }); }
  groups(role, numbers, pictures) { return this.ask("groups", { role, numbers, pictures }); }
  keep(key, note) { return this.ask("keep", { key, note }); }
  async refresh() { this.info = await this.ask("refresh"); return this.info; }
}

function render({ model, el }) {
  const root = element("div", "nbh reader mathjax_ignore tex2jax_ignore");
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "samples of the run");
  el.append(root);
  new Browser(root, new KernelSource(model, model.get("info")), { perPage: 1 });
}

export default { render };

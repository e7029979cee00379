// The groups of samples.html itself. What a filter leaves and how an order sorts was found by Python (data.found).
const data = JSON.parse(document.getElementById("data").textContent);
const AT = Object.fromEntries(data.info.fields.row.map((name, at) => [name, at]));
const folded = (text) => text.toLowerCase().replaceAll("ß", "ss");

function findGroups(state, marks = new Map()) {
  const { role } = state, wanted = folded(state.text.trim()), shown = new Set(data.found[role].show[state.show]);
  return data.found[role].order[state.order].filter((number) => {
    const [name, step, problem, rows] = data.groups[role][number];
    const [pid, kind, question, , answer] = data.problems[problem];
    const holds = (text) => folded(text).includes(wanted);
    return shown.has(number)
      && (state.step === "" || step === Number(state.step))
      && (!state.pid || pid === state.pid)
      && (!state.kind || kind === state.kind)
      && (!state.error || rows.some((row) => row[AT.error] === state.error))
      && (!state.marked || rows.some((_, place) => marks.has(`${role}/${name}/${place}`)))
      && (!wanted || [pid, question, answer].some(holds)
        || rows.some((row) => holds(row[AT.text]) || holds(row[AT.reason])));
  });
}

class PageSource {
  constructor() {
    this.info = data.info;
    this.marks = new Map(Object.entries(data.marks));
    for (const [key, note] of Object.entries(this.own())) {
      if (note === null) this.marks.delete(key); else this.marks.set(key, note);
    }
  }

  get store() { return "nbhelpers marks " + data.info.run + " " + data.info.created; }

  own() {
    try { return JSON.parse(localStorage.getItem(this.store) || "{}"); } catch { return {}; } // a page without storage
  }

  async find(state, key, step) {
    const numbers = findGroups(state, this.marks), groups = data.groups[state.role];
    let place = numbers.findIndex((number) => `${state.role}/${groups[number][0]}` === key);
    if (place < 0 && step !== undefined && step !== null) {
      place = numbers.findIndex((number) => groups[number][1] >= step);
    }
    return { numbers, place: Math.max(place, 0) };
  }

  async groups(role, numbers) {
    return numbers.map((number) => {
      const [name, step, at, rows] = data.groups[role][number], [...problem] = data.problems[at];
      const picture = data.images[problem.pop()];
      const visits = data.groups[role].filter((group) => group[2] === at).length;
      const flat = role === "rollout" && data.found[role].show["zero variance"].includes(number);
      return { key: `${role}/${name}`, step: role === "rollout" ? step : null, problem, picture, visits, flat, rows };
    });
  }

  async keep(key, note) {
    try { localStorage.setItem(this.store, JSON.stringify({ ...this.own(), [key]: note })); } catch { /* as above */ }
  }
}

const browser = new Browser(document.getElementById("browser"), new PageSource(), { perPage: 5, address: true });

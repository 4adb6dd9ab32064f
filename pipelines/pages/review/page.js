"use strict";
// Filters, search and sort over the rows that stand in the page; without it the page is read as it is.
(() => {
  const byId = (id) => document.getElementById(id);
  const list = byId("cards");
  const search = byId("search");
  const sort = byId("sort");
  const buttons = [...document.querySelectorAll("[data-filter]")];
  // The key of a row, and whether the smallest (1) or the largest (-1) comes first.
  const ORDERS = {
    worst: ["rank", 1],
    plan: ["plan", 1],
    longest: ["words", -1],
    shortest: ["words", 1],
    repetition: ["repetition", -1],
    score: ["score", 1],
  };
  const fold = (text) => text.normalize("NFKC").toLowerCase();
  const cards = Array.from(list.children, (node) => {
    const parts = [...node.querySelectorAll("[data-search]")];
    return {
      node,
      parts,
      filters: new Set(node.dataset.filters.split(" ")),
      text: fold(parts.map((part) => part.textContent).join("\n")),
    };
  });
  let chosen = "0";

  function apply() {
    const terms = fold(search.value).split(/\s+/).filter(Boolean);
    const shown = cards.filter(
      (card) => card.filters.has(chosen) && terms.every((term) => card.text.includes(term)),
    );
    const kept = new Set(shown);
    for (const card of cards) card.node.hidden = !kept.has(card);
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === chosen));
    }
    const rows = cards.length === 1 ? "row" : "rows";
    byId("count").textContent =
      shown.length === cards.length
        ? `${cards.length.toLocaleString("en")} ${rows}`
        : `${shown.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")} ${rows}`;
    byId("nothing").hidden = shown.length > 0;
    highlight(shown, terms);
  }

  function order() {
    const [key, direction] = ORDERS[sort.value];
    // A row without the figure comes last either way.
    const figure = (card) =>
      card.node.dataset[key] === "" ? Infinity : direction * Number(card.node.dataset[key]);
    const plan = (card) => Number(card.node.dataset.plan);
    const compare = (a, b) => {
      const [left, right] = [figure(a), figure(b)];
      return left === right ? plan(a) - plan(b) : left - right;
    };
    list.replaceChildren(...[...cards].sort(compare).map((card) => card.node));
    // A row that was moved has lost its marks.
    apply();
  }

  // Marks what was searched for, where the browser can, and opens what hides it.
  function highlight(shown, terms) {
    const ranges = [];
    for (const card of shown) {
      for (const part of card.parts) {
        const node = part.firstChild;
        const text = part.textContent.toLowerCase();
        if (!node || text.length !== node.length) continue;
        for (const term of terms) {
          for (let at = text.indexOf(term); at >= 0; at = text.indexOf(term, at + term.length)) {
            const range = new Range();
            range.setStart(node, at);
            range.setEnd(node, at + term.length);
            ranges.push(range);
          }
        }
      }
      const people = card.node.querySelector("details");
      if (people && terms.length) {
        const said = fold(people.querySelector("ul").textContent);
        people.open = terms.some((term) => said.includes(term));
      }
    }
    if (CSS.highlights) CSS.highlights.set("hit", new Highlight(...ranges));
  }

  function reset() {
    search.value = "";
    chosen = "0";
    apply();
    search.focus();
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      chosen = button.dataset.filter;
      apply();
    });
  }
  search.addEventListener("input", apply);
  sort.addEventListener("change", order);
  byId("reset").addEventListener("click", reset);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search) {
      search.value = "";
      apply();
    }
  });
  byId("tools").hidden = false;
  apply();
})();

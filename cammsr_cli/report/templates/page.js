"use strict";
// Pictures, the theme, and what sorts, filters and searches the users of a gallery.
(() => {
  const byId = (id) => document.getElementById(id);

  // The pictures come in after the page can be used, a few at a time.
  const later = window.requestIdleCallback ?? ((work) => setTimeout(work, 1));
  const fill = (pictures, addresses) => {
    for (const picture of pictures.splice(0, 40)) {
      picture.src = addresses[picture.dataset.picture];
    }
    if (pictures.length) later(() => fill(pictures, addresses));
  };
  later(() => {
    const pictures = [...document.querySelectorAll("img[data-picture]")];
    fill(pictures, JSON.parse(byId("pictures").textContent));
  });

  const theme = byId("theme");
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => {
    byId("theme-name").textContent = dark() ? "Light theme" : "Dark theme";
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    nameTheme();
  });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();
  theme.hidden = false;

  const people = byId("people");
  const controls = byId("controls");
  const all = [...people.children];
  const chosen = (id) => byId(id)?.value ?? "";
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;
  const orders = {
    number: (a, b) => a.dataset.number - b.dataset.number,
    user: (a, b) => compare(a.dataset.user, b.dataset.user),
    events: (a, b) => b.dataset.events - a.dataset.events,
    rank: (a, b) => a.dataset.rank - b.dataset.rank,
    "-rank": (a, b) => b.dataset.rank - a.dataset.rank,
  };

  const sort = () => people.append(...[...all].sort(orders[chosen("sort")]));

  const filter = () => {
    const search = chosen("search").trim().toLowerCase();
    const category = chosen("category");
    const form = chosen("form");
    let left = 0;
    for (const person of all) {
      let cards = 0;
      for (const card of person.querySelectorAll(".card")) {
        const fits =
          (!category || card.dataset.categories.split(" ").includes(category)) &&
          (!form || card.dataset.form === form);
        card.hidden = !fits;
        cards += fits;
      }
      const found = person.dataset.user.toLowerCase().includes(search);
      person.hidden = !found || (cards === 0 && Boolean(category || form));
      left += !person.hidden;
    }
    byId("count").textContent = `${left} of ${all.length} ${all.length === 1 ? "user" : "users"}`;
    byId("nobody").hidden = left > 0;
  };

  controls.addEventListener("input", (event) => (event.target.id === "sort" ? sort() : filter()));
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => setTimeout(() => (sort(), filter())));
  filter();
  controls.hidden = false;
})();

// Search over the index below, which build wrote; no network, no library.
(function () {
  const box = document.querySelector(".search"), input = box.querySelector("input"), list = box.querySelector("ol");
  const root = box.dataset.root;
  box.hidden = false;
  let chosen = -1;

  function score(entry, words) {
    let total = 0;
    for (const word of words) {
      const title = entry.title.toLowerCase(), at = title.indexOf(word);
      if (at === 0) total += 8;
      else if (at > 0) total += 4;
      else if (entry.text.includes(word)) total += 1;
      else return 0;
    }
    return total + entry.weight;
  }

  function show() {
    const words = input.value.toLowerCase().replaceAll("_", " ").split(/\s+/).filter(Boolean);
    const found = words.length
      ? INDEX.map((entry) => [score(entry, words), entry]).filter(([s]) => s > 0).sort((a, b) => b[0] - a[0]).slice(0, 12)
      : [];
    list.replaceChildren(...found.map(([, entry]) => {
      const item = document.createElement("li"), link = document.createElement("a"), where = document.createElement("span");
      link.href = root + entry.path;
      link.textContent = entry.title;
      where.textContent = entry.where;
      link.append(where);
      item.append(link);
      return item;
    }));
    if (words.length && !found.length) list.innerHTML = "<li class=none>Nothing is called so.</li>";
    list.hidden = !words.length;
    chosen = -1;
  }

  function move(step) {
    const links = list.querySelectorAll("a");
    if (!links.length) return;
    chosen = (chosen + step + links.length) % links.length;
    links[chosen].focus();
  }

  input.addEventListener("input", show);
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { move(1); event.preventDefault(); }
    if (event.key === "ArrowUp") { move(-1); event.preventDefault(); }
    if (event.key === "Escape") { list.hidden = true; input.blur(); }
    if (event.key === "Enter" && document.activeElement === input) list.querySelector("a")?.click();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== input) { input.focus(); event.preventDefault(); }
  });
  document.addEventListener("click", (event) => { if (!box.contains(event.target)) list.hidden = true; });
})();

"use strict";
(() => {
  const articles = [...document.querySelectorAll("article")];
  const search = document.getElementById("search");
  const escalatedOnly = document.getElementById("escalated-only");
  const boxes = [...document.querySelectorAll("input[data-status]")];
  const shown = document.getElementById("shown");
  const apply = () => {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.status));
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const article of articles) {
      const visible = wanted.has(article.dataset.status)
        && (!escalatedOnly.checked || article.dataset.escalated === "yes")
        && words.every((word) => article.dataset.text.includes(word));
      article.hidden = !visible;
      count += visible;
    }
    shown.textContent = `${count} of ${articles.length} shown`;
  };
  for (const input of [search, escalatedOnly, ...boxes]) input.addEventListener("input", apply);
  apply();
})();

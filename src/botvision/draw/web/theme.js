"use strict";

/** The button `theme`: dark or light, at first as the system has it. */
addEventListener("DOMContentLoaded", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)"), theme = document.getElementById("theme");
  theme.setAttribute("aria-pressed", dark.matches);
  theme.addEventListener("click", () => {
    const wanted = theme.getAttribute("aria-pressed") !== "true";
    document.documentElement.dataset.theme = wanted ? "dark" : "light";
    theme.setAttribute("aria-pressed", wanted);
  });
});

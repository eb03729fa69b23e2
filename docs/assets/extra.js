// What the theme leaves unnamed gets a name, and what scrolls can be reached by the keyboard.
function name() {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  document.querySelectorAll(".md-code__nav").forEach((each, number) =>
    each.setAttribute("aria-label", `Block ${number + 1}`))
  document.querySelectorAll("pre > code, .md-typeset__scrollwrap").forEach(each =>
    each.setAttribute("tabindex", "0"))
}

document$.subscribe(() => {
  name()
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true })
})

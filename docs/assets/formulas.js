// Formulas are written in plain text, v_1 and α^{L−2}, which reads in a terminal too. Here their indices and powers are set.
(() => {
  const BASE = "(?<=min|max|dv|(?<![A-Za-z_])[A-Za-z]|[^\\sA-Za-z0-9_^({\\[])"; // of an index: no name such as log_alpha
  const BRACED = "\\{((?:[^{}]|\\{[^{}]*\\})*)\\}";
  const MARK = new RegExp(
    `${BASE}_(?:${BRACED}|(\\d+|[A-Za-z]+|[Α-ω±+−←→∞]))|(?<=[^\\s_^({\\[])\\^(?:${BRACED}|\\(([^()]*)\\)|([+−]?[\\dA-Za-zΑ-ω]+))`, "g");

  function typeset(text) {
    const out = document.createDocumentFragment();
    let last = 0;
    for (const found of text.matchAll(MARK)) {
      out.append(text.slice(last, found.index));
      const [low, power] = [found[1] ?? found[2], found[3] ?? found[4] ?? found[5]];
      const piece = document.createElement(low === undefined ? "sup" : "sub");
      piece.append(typeset(low ?? power));
      out.append(piece);
      last = found.index + found[0].length;
    }
    out.append(text.slice(last));
    return out;
  }

  function formulas(root) {
    const displayed = location.pathname.includes("/notebooks/") ? [] // where such blocks are what programs print
      : root.querySelectorAll(".highlight.language-text");
    for (const block of displayed) block.classList.add("formula");
    const nodes = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const seen = [];
    while (nodes.nextNode()) if (/[_^]/.test(nodes.currentNode.data)) seen.push(nodes.currentNode);
    for (const node of seen) {
      const within = node.parentElement;
      if (within.closest(".formula") || !within.closest("code, pre, script, style, svg, .doc-heading, #gx")) node.replaceWith(typeset(node.data));
    }
  }

  globalThis.gflowFormulas = typeset;
  const run = () => document.querySelectorAll(".md-content").forEach(formulas);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", run);
  else run();
})();

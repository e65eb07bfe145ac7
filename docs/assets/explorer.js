// One data point in the plane, three two-layer networks: paths of gradient flow and their limits, in closed form.
//
// In the clock ν = −∫r dt the flow is linear, v_1' = M(x) v_2 and v_2' = M(x)ᵀ v_1, so that every pair of coordinates in a
// singular basis of M(x) turns by the hyperbolic angle s_j ν, and the flow ends where the output is y (Yun et al. 2021,
// Theorem 6). The starts are those of gflow.initial: coefficients α²z, dominated by the first layer.
"use strict";

(() => {
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
  const turn = (a, b, angle) => a * Math.cosh(angle) + b * Math.sinh(angle);

  // p ≥ 0 and q ≥ 0 with p q = size and p² − q² ≥ 1.
  const dominated = (size) => {
    const p = Math.sqrt(1 + size);
    return [p, size / p];
  };

  // Where α → 0 leads: what belongs to the larger of two singular values, or null at a tie, which the start decides.
  const larger = (a, b, first, second) =>
    Math.abs(a) === Math.abs(b) ? null : Math.abs(a) > Math.abs(b) ? first : second;

  // Each network: its start's weights (v_1, v_2) with coefficients z, the weights at ν, and their coefficients.
  const NETWORKS = {
    "fully-connected": {
      // W_1 = [[a, b], [c, d]], w_2. The rows' span is x alone: u = W_1ᵀ x/‖x‖ and w_2 turn by ‖x‖ν.
      start([z1, z2]) {
        const size = Math.hypot(z1, z2);
        const [c, s] = size > 0 ? [z1 / size, z2 / size] : [1, 0];
        const sign = c < 0 ? -1 : 1;
        const normal = [c + sign, s];
        const n2 = dot(normal, normal);
        const Q = (i, j) => -sign * ((i === j ? 1 : 0) - (2 * normal[i] * normal[j]) / n2);
        const [p, q] = dominated(size);
        return [[Q(0, 0) * p, Q(0, 1), Q(1, 0) * p, Q(1, 1)], [q, 0]];
      },
      at([W, w], x, nu) {
        const size = Math.hypot(x[0], x[1]);
        const unit = [x[0] / size, x[1] / size];
        const u = [0, 1].map((k) => unit[0] * W[k] + unit[1] * W[2 + k]);
        const moved = [0, 1].map((k) => turn(u[k], w[k], size * nu) - u[k]);
        return [
          [0, 1, 2, 3].map((i) => W[i] + unit[i >> 1] * moved[i & 1]),
          [0, 1].map((k) => turn(w[k], u[k], size * nu)),
        ];
      },
      coefficients: ([W, w]) => [dot([W[0], W[1]], w), dot([W[2], W[3]], w)],
      smallest: (x, y) => x.map((v) => (v * y) / dot(x, x)),
    },
    diagonal: {
      start(z) {
        const pairs = z.map((v) => dominated(Math.abs(v)));
        return [pairs.map((pair) => pair[0]), pairs.map((pair, j) => pair[1] * Math.sign(z[j]))];
      },
      at([v1, v2], x, nu) {
        return [
          [0, 1].map((j) => turn(v1[j], v2[j], x[j] * nu)),
          [0, 1].map((j) => turn(v2[j], v1[j], x[j] * nu)),
        ];
      },
      coefficients: ([v1, v2]) => [v1[0] * v2[0], v1[1] * v2[1]],
      smallest: ([a, b], y) => larger(a, b, [y / a, 0], [0, y / b]),
    },
    convolutional: {
      // In the plane the Fourier transform is sum and difference, and M(x) = [[x_1, x_2], [x_2, x_1]] has them as
      // eigenvectors.
      start(z) {
        const tones = [z[0] + z[1], z[0] - z[1]];
        const pairs = tones.map((v) => dominated(Math.abs(v)));
        const back = ([sum, difference]) => [(sum + difference) / 2, (sum - difference) / 2];
        return [
          back(pairs.map((pair) => pair[0])),
          back(pairs.map((pair, j) => (tones[j] < 0 ? -1 : 1) * pair[1])),
        ];
      },
      at([v1, v2], x, nu) {
        const tones = (v) => [v[0] + v[1], v[0] - v[1]];
        const [s, a, b] = [tones(x), tones(v1), tones(v2)];
        const back = ([sum, difference]) => [(sum + difference) / 2, (sum - difference) / 2];
        return [
          back([0, 1].map((j) => turn(a[j], b[j], s[j] * nu))),
          back([0, 1].map((j) => turn(b[j], a[j], s[j] * nu))),
        ];
      },
      coefficients: ([v1, v2]) => [v1[0] * v2[0] + v1[1] * v2[1], v1[0] * v2[1] + v1[1] * v2[0]],
      smallest: ([a, b], y) =>
        larger(a + b, a - b, [y / (a + b), y / (a + b)], [y / (a - b), -y / (a - b)]),
    },
  };

  const scaled = (weights, alpha) => weights.map((v) => v.map((entry) => alpha * entry));

  // The ν at which the output, which increases, is y.
  const arrival = (network, start, x, y) => {
    const excess = (nu) => dot(x, network.coefficients(network.at(start, x, nu))) - y;
    let [low, high] = [-1, 1];
    while (excess(low) > 0) low *= 2;
    while (excess(high) < 0) high *= 2;
    for (let i = 0; i < 200; i++) {
      const middle = (low + high) / 2;
      if (middle === low || middle === high) break;
      if (excess(middle) < 0) low = middle;
      else high = middle;
    }
    return Math.abs(excess(low)) < Math.abs(excess(high)) ? low : high;
  };

  // Everything that is drawn of one network: start, path and limit of the coefficients, and ν at the limit.
  const solve = (name, { x, y, z, alpha }, points = 160) => {
    const network = NETWORKS[name];
    const start = scaled(network.start(z), alpha);
    const nu = arrival(network, start, x, y);
    const path = [];
    for (let i = 0; i <= points; i++)
      path.push(network.coefficients(network.at(start, x, (nu * i) / points)));
    return { start: path[0], limit: path[points], nu, path };
  };

  const weights = (name, { x, z, alpha }, nu) => {
    const network = NETWORKS[name];
    return network.at(scaled(network.start(z), alpha), x, nu);
  };

  window.gflowExplorer = { networks: Object.keys(NETWORKS), solve, weights };

  // The page.

  const SVG = "http://www.w3.org/2000/svg";
  const REACH = 1.5; // the plane is drawn from −REACH to REACH
  const UNIT = 200 / REACH; // in a picture of 400 × 400
  const MARKERS = {
    "fully-connected": "M-5,-5H5V5H-5Z",
    diagonal: "M0,-6A6,6 0 1 1 0,6A6,6 0 1 1 0,-6Z",
    convolutional: "M0,-6.5L6.5,5H-6.5Z",
  };

  const element = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "g", "path", "circle", "line", "text", "clipPath", "rect"].includes(tag);
    const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const across = (v) => UNIT * (v + REACH);
  const down = (v) => UNIT * (REACH - v);
  const clamp = (v) => Math.min(Math.max(v, -REACH), REACH);
  const shown = (v) => (Math.abs(v) < 5e-5 ? "0.0000" : v.toFixed(4)).replace("-", "−");

  const build = (root) => {
    const state = { x: [1, 2], y: 1, z: [0.9, -0.6], alpha: 0.5 };
    const asked = new URLSearchParams(window.location.search);
    const given = (name, otherwise) => {
      const value = asked.has(name) ? Number(asked.get(name)) : NaN;
      return Number.isFinite(value) ? value : otherwise;
    };
    state.x = [given("x1", 1), given("x2", 2)];
    state.y = given("y", 1);
    state.z = [given("z1", 0.9), given("z2", -0.6)].map(clamp);
    state.alpha = Math.min(Math.max(given("alpha", 0.5), 1e-4), 1);

    const picture = element("svg", {
      viewBox: "-14 -14 428 428",
      class: "gx-picture",
      role: "group",
      "aria-label": "The plane of coefficients: the line of global minima, three paths and their limits",
    });
    const plot = element("g", { "clip-path": "url(#gx-clip)" });
    picture.append(
      element("clipPath", { id: "gx-clip" }, element("rect", { x: 0, y: 0, width: 400, height: 400 })),
      element("rect", { x: 0, y: 0, width: 400, height: 400, class: "gx-frame" }),
      element("line", { x1: 0, x2: 400, y1: 200, y2: 200, class: "gx-axis" }),
      element("line", { x1: 200, x2: 200, y1: 0, y2: 400, class: "gx-axis" }),
    );
    for (const v of [-1, 1])
      picture.append(
        element("text", { x: across(v), y: 214, class: "gx-tick", "text-anchor": "middle" }, String(v).replace("-", "−")),
        element("text", { x: 194, y: down(v) + 4, class: "gx-tick", "text-anchor": "end" }, String(v).replace("-", "−")),
      );
    picture.append(
      element("text", { x: 396, y: 194, class: "gx-tick", "text-anchor": "end" }, "β₁"),
      element("text", { x: 206, y: 12, class: "gx-tick" }, "β₂"),
      plot,
    );
    const minima = element("line", { class: "gx-minima" });
    plot.append(minima);
    const drawn = {};
    for (const name of Object.keys(NETWORKS)) {
      const path = element("path", { class: `gx-path gx-${name}` });
      const far = element("path", { class: `gx-far gx-${name}`, d: "M-4,-4L4,4M-4,4L4,-4" });
      const limit = element("path", { class: `gx-limit gx-${name}`, d: MARKERS[name] });
      plot.append(path, far, limit);
      drawn[name] = { path, far, limit };
    }
    const ray = element("line", { class: "gx-ray", x1: 200, y1: 200 });
    const start = element("circle", { class: "gx-start", r: 4 });
    const handle = element(
      "g",
      { class: "gx-handle", tabindex: 0, role: "application", "aria-roledescription": "point in the plane" },
      element("circle", { r: 20, class: "gx-touch" }),
      element("circle", { r: 8, class: "gx-knob" }),
    );
    plot.append(ray, start);
    picture.append(handle);

    const number = (label, attributes, read, write) => {
      const input = element("input", { type: "number", step: "any", ...attributes });
      input.addEventListener("input", () => {
        if (input.value !== "" && Number.isFinite(Number(input.value))) {
          write(Number(input.value));
          render(input);
        }
      });
      return { field: element("label", {}, label + " ", input), input, read };
    };
    const numbers = [
      number("z₁", { min: -REACH, max: REACH }, () => state.z[0], (v) => (state.z[0] = clamp(v))),
      number("z₂", { min: -REACH, max: REACH }, () => state.z[1], (v) => (state.z[1] = clamp(v))),
      number("x₁", {}, () => state.x[0], (v) => (state.x[0] = v)),
      number("x₂", {}, () => state.x[1], (v) => (state.x[1] = v)),
      number("y", {}, () => state.y, (v) => (state.y = v)),
    ];
    const slider = element("input", { type: "range", min: -4, max: 0, step: 0.01, "aria-label": "initial scale α" });
    const sliderText = element("output", {});
    slider.addEventListener("input", () => {
      state.alpha = 10 ** Number(slider.value);
      render(slider);
    });
    const table = element("tbody", {});
    const said = element("p", { class: "gx-said", role: "status", "aria-live": "polite" });

    root.append(
      element("div", { class: "gx-side" }, picture),
      element(
        "div",
        { class: "gx-side" },
        element("label", { class: "gx-scale" }, "initial scale α =", sliderText, slider),
        element(
          "fieldset",
          {},
          element("legend", {}, "start: β = α² z. Drag the ring, or its arrow keys"),
          numbers[0].field,
          numbers[1].field,
        ),
        element(
          "fieldset",
          {},
          element("legend", {}, "data point: x₁β₁ + x₂β₂ = y"),
          numbers[2].field,
          numbers[3].field,
          numbers[4].field,
        ),
        element(
          "table",
          {},
          element(
            "thead",
            {},
            element("tr", {}, ...["network", "limit β₁", "limit β₂", "as α → 0"].map((h) => element("th", { scope: "col" }, h))),
          ),
          table,
        ),
        said,
      ),
    );

    let saying = 0;
    const render = (from) => {
      for (const { input, read } of numbers) if (input !== from) input.value = String(Number(read().toFixed(4)));
      if (slider !== from) slider.value = Math.log10(state.alpha);
      sliderText.textContent = ` ${Number(state.alpha.toPrecision(3))}`;
      slider.setAttribute("aria-valuetext", `α = ${Number(state.alpha.toPrecision(3))}`);
      const knob = [across(state.z[0]), down(state.z[1])];
      handle.setAttribute("transform", `translate(${knob})`);
      handle.setAttribute(
        "aria-label",
        `Start direction z = (${shown(state.z[0])}, ${shown(state.z[1])}). Arrow keys move it, with shift in larger steps.`,
      );
      ray.setAttribute("x2", knob[0]);
      ray.setAttribute("y2", knob[1]);
      start.setAttribute("cx", across(state.alpha ** 2 * state.z[0]));
      start.setAttribute("cy", down(state.alpha ** 2 * state.z[1]));
      const size = dot(state.x, state.x);
      table.replaceChildren();
      said.classList.toggle("gx-error", !(size > 0));
      plot.setAttribute("visibility", size > 0 ? "visible" : "hidden");
      if (!(size > 0)) {
        said.textContent = "x must not be zero: then no coefficients change the output.";
        root.dataset.numbers = "{}";
        return;
      }
      const foot = state.x.map((v) => (v * state.y) / size);
      const along = [-state.x[1] / Math.sqrt(size), state.x[0] / Math.sqrt(size)];
      for (const [end, far] of [["1", -10], ["2", 10]]) {
        minima.setAttribute(`x${end}`, across(foot[0] + far * along[0]));
        minima.setAttribute(`y${end}`, down(foot[1] + far * along[1]));
      }
      const found = {};
      for (const name of Object.keys(NETWORKS)) {
        const { path, limit, nu } = solve(name, state);
        const smallest = NETWORKS[name].smallest(state.x, state.y);
        drawn[name].path.setAttribute("d", `M${path.map((b) => `${across(b[0])},${down(b[1])}`).join("L")}`);
        drawn[name].limit.setAttribute("transform", `translate(${across(limit[0])},${down(limit[1])})`);
        drawn[name].far.setAttribute("visibility", smallest ? "visible" : "hidden");
        if (smallest)
          drawn[name].far.setAttribute("transform", `translate(${across(smallest[0])},${down(smallest[1])})`);
        const mark = element("svg", { viewBox: "-8 -8 16 16", class: "gx-mark", "aria-hidden": "true" });
        mark.append(element("path", { class: `gx-limit gx-${name}`, d: MARKERS[name] }));
        table.append(
          element(
            "tr",
            {},
            element("th", { scope: "row" }, mark, name),
            element("td", {}, shown(limit[0])),
            element("td", {}, shown(limit[1])),
            element("td", {}, smallest ? `(${smallest.map(shown).join(", ")})` : "by the start"),
          ),
        );
        found[name] = { limit, nu, start: path[0] };
      }
      root.dataset.numbers = JSON.stringify(found);
      clearTimeout(saying); // a screen reader hears where it ended, not every step of a drag
      saying = setTimeout(() => {
        const ends = Object.entries(found).map(([name, { limit }]) => `${name} (${limit.map(shown).join(", ")})`);
        said.textContent = `At α = ${Number(state.alpha.toPrecision(3))} the limits are ${ends.join(", ")}.`;
      }, 400);
    };

    const move = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
      state.z = [clamp(point.x / UNIT - REACH), clamp(REACH - point.y / UNIT)];
      render();
    };
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) move(event);
    });
    handle.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (!(event.key in steps)) return;
      const size = event.shiftKey ? 0.1 : 0.01;
      state.z = state.z.map((v, j) => clamp(v + size * steps[event.key][j]));
      event.preventDefault();
      render();
    });
    render();
  };

  const root = document.getElementById("gx");
  if (root) build(root);
})();

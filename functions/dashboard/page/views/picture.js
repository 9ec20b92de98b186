// Draws the pipeline.
import { h, region } from "../dom.js";
import { layout } from "../graph.js";

/** @param {import("../api.js").Stage[]} stages @param {import("../api.js").Stream[]} streams */
export function picture(stages, streams) {
  const { width, height, boxes, lines, story } = layout(stages, streams);
  // Without fetchers it begins further right.
  const left = Math.max(0, Math.min(width, ...boxes.map((box) => box.x)) - 4);
  return region("Picture of the pipeline",
    h("svg", { id: "picture", viewBox: `${left} 0 ${width - left} ${height}`, role: "img", "aria-labelledby": "picture-title picture-desc" },
      h("title", { id: "picture-title" }, "The pipeline: stages, topics, windows and rows"),
      h("desc", { id: "picture-desc" }, story),
      h("defs", null, h("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 10, markerHeight: 10, markerUnits: "userSpaceOnUse", orient: "auto" },
        h("path", { d: "M0 0L8 4L0 8z" }))),
      lines.map((line) => h("g", { key: line.id, class: `line ${line.kind}${line.pressed ? " pressed" : ""}`, "data-line": line.id },
        h("path", { d: line.path, "marker-end": "url(#arrow)" }),
        line.labels.map((label, i) => h("text", { key: i, x: line.x, y: line.y + i * 13, class: label.mark || null }, label.text)))),
      boxes.map((box) => h("g", { key: box.id, class: `box ${box.kind} ${box.classes.join(" ")}`, "data-box": box.id },
        h("title", null, box.full),
        h("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 6 }),
        // Text that is wider than it should be ends at the box.
        h("svg", { x: box.x, y: box.y, width: box.width - 4, height: box.height },
          h("text", { class: "title", x: 8, y: 17 }, box.title),
          box.lines.map((line, i) => h("text", { key: i, class: line.mark || null, x: 8, y: 35 + i * 16 }, line.text)))))));
}

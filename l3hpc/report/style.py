"""The style sheet of the report page: light and dark by the reader's setting, and for paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #14181f; --soft: #566072; --line: #dfe3ea;
  --grid: #e8ebf0; --one: #1f63c6; --two: #c2570c; --fill: #1f63c61c; --good: #1b7f4b;
  --bad: #b3261e; --warn-paper: #fff4d6; --warn-line: #d99a00; --warn-ink: #4d3800;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f1217; --card: #171b22; --ink: #e9ecf2; --soft: #9ea8ba; --line: #2b323e;
    --grid: #232a35; --one: #76aeff; --two: #ffa45c; --fill: #76aeff24; --good: #5fcf94;
    --bad: #ff8a80; --warn-paper: #33280a; --warn-line: #d9a520; --warn-ink: #ffe7a8;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 2px; }
h3 { font-size: 14px; margin: 0; }
p { margin: 0 0 10px; max-width: 92ch; }
.soft, figcaption { color: var(--soft); }
.lead { max-width: none; color: var(--soft); margin-bottom: 20px; overflow-wrap: anywhere; }
.banner {
  display: flex; gap: 14px; align-items: flex-start; margin: 0 0 20px; padding: 14px 18px;
  background: var(--warn-paper); color: var(--warn-ink); border: 1px solid var(--warn-line);
  border-left-width: 6px; border-radius: 8px;
}
.banner strong { display: block; font-size: 16px; }
.banner p { margin: 0; max-width: none; }
.banner svg { flex: none; margin-top: 2px; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin: 0 0 20px;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr));
  gap: 16px; margin: 0 0 20px; }
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 18px; margin: 0; display: flex; flex-direction: column;
}
.tile dt { color: var(--soft); font-size: 13px; }
.tile dd { margin: 0; }
.tile .figure { font-size: 28px; line-height: 1.25; font-weight: 650; letter-spacing: -0.02em; }
.tile .note { color: var(--soft); font-size: 13px; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
.two > section { min-width: 0; }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 18px 16px; margin-top: 14px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13px; margin-bottom: 8px; }
.panel figcaption { color: var(--ink); display: flex; justify-content: space-between; gap: 8px;
  font-size: 14px; margin-bottom: 2px; align-items: baseline; }
.panel figcaption b { font-variant-numeric: tabular-nums; }
.panel .under { color: var(--soft); font-size: 12px; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
svg .name { fill: var(--ink); font-weight: 600; }
svg .value { fill: var(--ink); }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .one { stroke: var(--one); } svg .two { stroke: var(--two); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .dash { stroke-dasharray: 5 4; }
svg .area { fill: var(--fill); stroke: none; }
svg .guess { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; fill: none; }
svg .dot { stroke: var(--card); stroke-width: 2; }
svg .dot.one, svg .bar { fill: var(--one); } svg .dot.two { fill: var(--two); }
svg .hit { fill: transparent; stroke: none; pointer-events: all; }
svg .box { fill: var(--card); stroke: var(--line); stroke-width: 1.5; }
svg .track { fill: var(--grid); }
svg .arrow { stroke: var(--soft); stroke-width: 1.5; fill: none; }
svg .head { fill: var(--soft); }
svg .done { fill: var(--good); } svg .failed { fill: var(--bad); }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible {
  outline: 2px solid var(--one); outline-offset: 2px; border-radius: 4px; }
.scroll > svg { min-width: 900px; }
table + p { margin: 12px 0 0; }
.scroll + p { margin: 12px 0 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding-bottom: 4px; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: 13px; }
tbody th { font-weight: 500; }
td { overflow-wrap: anywhere; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.cells { columns: 2; column-gap: 32px; margin: 10px 0 0; }
.cells > div { break-inside: avoid; display: grid; grid-template-columns: 11em 1fr; gap: 10px;
  border-bottom: 1px solid var(--line); padding: 5px 0; font-size: 14px; }
.cells dt { color: var(--soft); }
.cells dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
details { margin-top: 12px; font-size: 14px; }
summary { cursor: pointer; color: var(--soft); width: fit-content; }
details[open] > summary { margin-bottom: 8px; }
.ledger + .ledger { margin-top: 22px; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: 13px; padding-bottom: 40px; }
@media (max-width: 860px) {
  .panels { grid-template-columns: repeat(2, 1fr); }
  .two { grid-template-columns: 1fr; gap: 0; }
  .cells { columns: 1; }
}
@media (max-width: 460px) {
  main, header, footer { padding-left: 12px; padding-right: 12px; }
  .panels { grid-template-columns: 1fr; }
}
@media print {
  body { background: #fff; font-size: 12px; }
  section, .tile { break-inside: avoid; }
  .scroll { overflow: visible; } .scroll > svg { min-width: 0; }
}
"""

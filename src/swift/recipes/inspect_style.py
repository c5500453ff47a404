"""The style sheet of ``swift inspect``'s page."""

from __future__ import annotations

STYLE = """
:root { --page: #fff; --text: #1c1c1c; --soft: #5c5c5c; --line: #d4d4d4; --read: #ececec;
  --learned: #66d680; --other: #ffcf70; --special: #7a3fd0; --first: #d9e4f5 }
@media (prefers-color-scheme: dark) {
  :root { --page: #17181a; --text: #ececec; --soft: #a8a8a8; --line: #3d3f43; --read: #2a2c30;
    --learned: #1d7a38; --other: #86601a; --special: #c09bff; --first: #2c3a52 } }
* { box-sizing: border-box }
body { margin: 1.5rem auto 4rem; max-width: 90rem; padding: 0 1rem; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem }
h3 { font-size: .95rem; margin: 0 0 .4rem; font-weight: 600 }
small, .gap { color: var(--soft); font-weight: 400 } small { white-space: nowrap }
.at { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
mark { background: var(--other); color: inherit; border-radius: 3px; padding: 0 .3em;
  font-size: .8rem; font-weight: 400 }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left;
  font-weight: 400; vertical-align: top; overflow-wrap: anywhere }
.facts th, .rows th { color: var(--soft); white-space: nowrap }
.rows td + td, .rows th + th { text-align: right; font-variant-numeric: tabular-nums }
ul { margin: 0; padding-left: 1.2rem; max-height: 16rem; overflow: auto;
  font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto } svg rect { fill: var(--learned) }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; text-anchor: middle }
.legend { position: sticky; top: 0; z-index: 1; padding: .5rem 0; background: var(--page);
  border-bottom: 1px solid var(--line); font-size: 13px } .legend span { color: var(--soft) }
article { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
  margin: .8rem 0; min-width: 0 }
.media { display: flex; flex-wrap: wrap; gap: .6rem; margin: 0 0 .5rem }
figure { margin: 0; max-width: 14rem; font-size: 12px; overflow-wrap: anywhere;
  color: var(--soft) } img { display: block; max-width: 96px; border: 1px solid var(--line) }
.x { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.75 ui-monospace, monospace }
b { font-weight: 400; background: var(--read); border-radius: 2px; padding: 1px 0;
  box-shadow: inset -1px 0 var(--page); unicode-bidi: isolate; color: var(--soft) }
.l, .w { color: var(--text) } .l { background: var(--learned) } .w { background: var(--other) }
  .f { background: var(--first) }
.s { outline: 1px solid var(--special); outline-offset: -1px; color: var(--special) }
.l.s, .w.s { color: var(--text) }
sup { font-size: 9px; line-height: 0; padding-left: 2px }
i { background: radial-gradient(circle, var(--soft) 1px, transparent 1.4px) 0 50% / 1ch 1em }
u { text-decoration: none } u::before { color: var(--soft) }
u.n::before { content: "\\23CE" } u.t::before { content: "\\2192" }
em { font-style: normal; color: var(--soft) }
.x b:hover { outline: 2px solid var(--text); outline-offset: 0 }
.x b:hover::after { content: "id " attr(data-i) "   weight " attr(data-w) "   position "
  attr(data-p); position: fixed; left: 0; right: 0; bottom: 0; z-index: 2; padding: .5rem 1rem;
  background: var(--text); color: var(--page); white-space: pre }
.pack { border: 2px solid var(--soft); border-radius: 8px; padding: 0 1rem .6rem; margin: 1.5rem 0 }
.strip { display: flex; height: 14px; border: 1px solid var(--soft) }
.strip span { background: var(--first); border-right: 2px solid var(--page); min-width: 0 }
.strip .free { background: none; border: 0 }
.row { display: flex; flex-wrap: wrap } .row article { margin: .6rem 0; border-radius: 0;
  border-width: 1px 0 1px 3px; border-color: var(--line) var(--line) var(--line) var(--special) }
"""

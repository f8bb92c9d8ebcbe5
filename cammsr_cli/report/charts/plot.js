export { axisX, axisY, dot, gridX, gridY, lineY, link, plot, pointerX, ruleX, ruleY, text, tip } from "@observablehq/plot";

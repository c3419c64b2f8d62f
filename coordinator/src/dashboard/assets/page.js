// Everything works without these.
import "./keys.js";
import "./live.js";

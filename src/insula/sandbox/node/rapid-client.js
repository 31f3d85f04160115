"use strict";
// Stands in for the native addon rapid-client.node, through which AWS's client for Node.js speaks to the Runtime API:
// the same three functions, over Node.js's own HTTP. The addon blocks until an answer is posted; here the next poll
// waits for that, which to the function is the same.

const { Agent, request } = require("node:http");

const [hostname, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
let posted = Promise.resolve();

function call(method, path, headers, body) {
  return new Promise((resolve, reject) => {
    const options = { agent, headers, hostname, method, path: `/2018-06-01/runtime/invocation/${path}`, port };
    const sent = request(options, (answer) => {
      const chunks = [];
      answer.on("error", reject);
      answer.on("data", (chunk) => chunks.push(chunk));
      answer.on("end", () => resolve({ answer, body: Buffer.concat(chunks).toString() }));
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

function post(path, text) {
  const body = Buffer.from(text);
  const headers = { "Content-Type": "application/json", "Content-Length": body.length };
  posted = call("POST", path, headers, body).catch(() => {}); // as the addon, which does not look at the outcome
}

exports.next = async () => {
  await posted;
  const { answer, body } = await call("GET", "next", {});
  if (answer.statusCode !== 200) {
    throw new Error(`Failed to get next invocation, error ${answer.statusCode}`);
  }
  return { bodyJson: body, headers: answer.headers };
};

exports.done = (id, response) => post(`${id}/response`, response);

// Its third argument is a document for X-Ray, which is not here.
exports.error = (id, response) => post(`${id}/error`, response);

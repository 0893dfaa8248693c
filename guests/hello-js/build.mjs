// Turns one JavaScript file into a component:
//
//     npm ci
//     node build.mjs                                   # hello.js → hello-js.wasm
//     node build.mjs SOURCE OUTPUT WIT-FOLDER WORLD
//
// The engine (StarlingMonkey, that is SpiderMonkey) is part of the component: about 13 MB.
import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [sourcePath = 'hello.js', output = 'hello-js.wasm', witPath = '../wit/0.2', worldName = 'hello-js'] =
  process.argv.slice(2);

const { component } = await componentize({ sourcePath, witPath, worldName });
await writeFile(output, component);

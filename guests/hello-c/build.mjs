// Makes a component of a core module that was compiled for the world `hello-c`:
//
//     node build.mjs CORE.wasm OUTPUT.wasm WIT-FOLDER WORLD
//
// The same as `wasm-tools component embed` and `wasm-tools component new`, from the packages that ../hello-js pins.
import { readFile, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { componentEmbed, componentNew } from '@bytecodealliance/jco';

const [core, output, wit, world] = process.argv.slice(2);
const binary = await readFile(core);
const embedded = await componentEmbed({ binary, witPath: resolve(wit), world });
await writeFile(output, await componentNew(embedded, []));

// Package e2e tests the built programs as their users run them: an Emperor
// over a directory, files dropped into it, requests sent to what runs. Each
// test has an Emperor of its own with run, log, state and vassals directories
// below a temporary one, and leaves nothing behind.
package e2e

// Package guest holds the tests that run inside a system of package e2e/vm, as
// root, beside our package as it is installed and started by systemd. On any
// other machine they are skipped.
package guest

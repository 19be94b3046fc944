// Package kernel holds the questions to an enforcing kernel on which the ways
// into a domain are built (docs/selinux.md): who may change domain, and how,
// with a policy in which everything else is allowed (policy.cil). They run
// inside a micro machine of package e2e/vm, as init's child, beside the real
// liege-stage. On any other machine they are skipped.
package kernel

// Command liege-stage: see docs/architecture.md.
package main

func main() {}

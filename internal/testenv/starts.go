package testenv

import (
	"os"
	"strconv"
	"testing"
)

// Starts is how many starts a test makes that counts what they leave: usual, or
// what TEST_STARTS says (docs/testing.md).
func Starts(t testing.TB, usual int) int {
	t.Helper()
	text := os.Getenv("TEST_STARTS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < usual {
		t.Fatalf("TEST_STARTS = %q: want a number from %d on", text, usual)
	}
	return n
}

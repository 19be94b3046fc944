package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var built struct {
	once sync.Once
	dir  string
	err  error
}

// Binaries builds liege and the programs that it needs, once per test binary, and returns the directory that holds them. It is removed by
// Main; without Main it stays in the temporary directory. Where the environment
// variable TEST_BIN names a directory, its programs are used and nothing is
// built: on a machine without Go, to which a test binary was copied.
func Binaries(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("TEST_BIN"); dir != "" {
		return dir
	}
	built.once.Do(func() { built.dir, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

func build() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "liege-bin-")
	if err != nil {
		return "", err
	}
	// The sandbox runs these as other users.
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	for _, b := range []struct {
		cgo  string
		args []string
	}{
		{"0", []string{"./cmd/liege", "./cmd/liege-core", "./cmd/liege-relay"}},
		{"0", []string{"-o", filepath.Join(dir, "sbin/sendmail"), "./cmd/liege-sendmail"}}, // the last -o counts
		{"1", []string{"./cmd/liege-emperor"}},
		{"1", []string{"-ldflags", "-linkmode external -extldflags -static", "./cmd/liege-stage"}},
	} {
		args := append([]string{"build", "-o", dir + "/"}, b.args...)
		cmd := exec.Command("go", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return dir, nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("no go.mod above the test's directory")
		}
	}
}

// Main runs the tests and removes what Binaries built. Call it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, "testenv:", err)
			code = max(code, 1)
		}
	}
	return code
}

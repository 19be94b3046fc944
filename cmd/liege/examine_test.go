package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"liege/internal/testcert"
)

// writeCertificates writes the certificates that the scripts name: good, old,
// soon, other, and good's with other's key; all in one directory for sni-dir.
func writeCertificates(t *testing.T, dir string) error {
	dir = filepath.Join(dir, "certs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	good := testcert.New(t, testcert.Cert{Name: "good.example", NotAfter: time.Date(2199, 1, 2, 0, 0, 0, 0, time.UTC)})
	other := testcert.New(t, testcert.Cert{Name: "other.example"})
	good.Write(t, dir, "good")
	other.Write(t, dir, "other")
	testcert.New(t, testcert.Cert{Name: "old.example", NotAfter: time.Now().Add(-time.Hour)}).Write(t, dir, "old")
	testcert.New(t, testcert.Cert{Name: "soon.example", NotAfter: time.Now().Add(time.Hour)}).Write(t, dir, "soon")
	(&testcert.Made{Cert: good.Cert, Key: other.Key}).Write(t, dir, "mixed")
	_, key := good.Write(t, dir, "open")
	return os.Chmod(key, 0o644)
}

// Package testcert makes certificates for tests.
//
//	ca := testcert.New(t, testcert.Cert{Name: "Acme", CA: true})
//	c := testcert.New(t, testcert.Cert{Name: "localhost", By: ca})
//	c.Write(t, dir, "site") // site.crt, site.key
package testcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Cert is what a certificate shall say.
type Cert struct {
	Name     string // common name, and DNS name; 127.0.0.1 is in every one
	Org      string
	NotAfter time.Time // zero: in a year
	CA       bool
	By       *Made // who signs; nil: itself
}

// Made is a certificate with its key.
type Made struct {
	Cert, Key []byte // PEM
	X509      *x509.Certificate
	key       *ecdsa.PrivateKey
}

// New makes c.
func New(t testing.TB, c Cert) *Made {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().AddDate(1, 0, 0)
	}
	tpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: c.Name}, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: c.NotAfter,
		IsCA: c.CA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if c.Org != "" {
		tpl.Subject.Organization = []string{c.Org}
	}
	if !c.CA {
		tpl.DNSNames, tpl.IPAddresses = []string{c.Name}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	parent, signer := tpl, key
	if c.By != nil {
		parent, signer = c.By.X509, c.By.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m := &Made{key: key, Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})}
	if m.X509, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return m
}

// Write writes m to dir as name.crt and name.key, each whole or not at all.
func (m *Made) Write(t testing.TB, dir, name string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for path, text := range map[string][]byte{cert: m.Cert, key: m.Key} {
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TLS is m for crypto/tls.
func (m *Made) TLS(t testing.TB) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Trusting is a client's configuration that trusts those.
func Trusting(ms ...*Made) *tls.Config {
	pool := x509.NewCertPool()
	for _, m := range ms {
		pool.AddCert(m.X509)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

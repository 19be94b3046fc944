package keypair

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"liege/internal/testcert"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TestParse: what is taken, and what is said about the rest.
func TestParse(t *testing.T) {
	a, b := testcert.New(t, testcert.Cert{Name: "a.example"}), testcert.New(t, testcert.Cert{Name: "b.example"})
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, c := range []struct {
		name      string
		cert, key []byte
		want      string // empty: it is good
		aboutCert bool
	}{
		{"a pair", a.Cert, a.Key, "", false},
		{"a chain", join(a.Cert, b.Cert), a.Key, "", false},
		{"one file for both, key first", join(a.Key, a.Cert), join(a.Key, a.Cert), "", false},
		{"text around it", join([]byte("Bag Attributes\n"), a.Cert), join([]byte("hello\n"), a.Key), "", false},
		{"nothing", nil, nil, "no certificate", true},
		{"no certificate", a.Key, a.Key, "no certificate", true},
		{"no key", a.Cert, a.Cert, "no private key", false},
		{"the wrong way round", a.Key, a.Cert, "no certificate", true},
		{"another's key", a.Cert, b.Key, "does not belong", false},
		{"a key of another kind", a.Cert, block("PRIVATE KEY", otherKey), "does not belong", false},
		{"encrypted", a.Cert, block("ENCRYPTED PRIVATE KEY", []byte("x")), "encrypted", false},
		{"encrypted, old form", a.Cert, []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), "encrypted", false},
		{"not a certificate", block("CERTIFICATE", []byte("x")), a.Key, "certificate 1 cannot be read", true},
		{"not a key", a.Cert, block("PRIVATE KEY", []byte("secret")), "cannot be read", false},
		{"too many", bytes.Repeat(a.Cert, 17), a.Key, "more than 16", true},
	} {
		p, err := Parse(c.cert, c.key)
		switch {
		case c.want == "":
			if err != nil || p.Leaf.Subject.CommonName != "a.example" || p.Names()[0] != "a.example" {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		case IsCertificate(err) != c.aboutCert:
			t.Errorf("%s: about the certificate: %t", c.name, !c.aboutCert)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error quotes the key: %v", c.name, err)
		}
	}
}

// TestOldForm: keys as OpenSSL wrote them before PKCS 8.
func TestOldForm(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tpl := testcert.New(t, testcert.Cert{Name: "a"}).X509
	tpl.SignatureAlgorithm, tpl.PublicKey = x509.UnknownSignatureAlgorithm, nil
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(block("CERTIFICATE", der), block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))); err != nil {
		t.Error(err)
	}
}

// TestTrouble: when there is a word about the time.
func TestTrouble(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		until time.Duration
		want  string
	}{{15 * 24 * time.Hour, ""}, {13 * 24 * time.Hour, "expires on"}, {-time.Hour, "expired on"}} {
		m := testcert.New(t, testcert.Cert{Name: "a", NotAfter: now.Add(c.until)})
		p, err := Parse(m.Cert, m.Key)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Trouble(now); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v: %q", c.until, got)
		}
		if p.Expired(now) != (c.until < 0) {
			t.Errorf("%v: expired %t", c.until, p.Expired(now))
		}
		if got := p.Trouble(now.AddDate(-2, 0, 0)); !strings.Contains(got, "only from") {
			t.Errorf("too early: %q", got)
		}
	}
}

func TestAuthorities(t *testing.T) {
	a := testcert.New(t, testcert.Cert{Name: "a", CA: true})
	if cs, err := Authorities(append(append([]byte{}, a.Cert...), a.Cert...)); err != nil || len(cs) != 2 {
		t.Error(len(cs), err)
	}
	if _, err := Authorities(a.Key); !errors.Is(err, ErrNoCertificate) {
		t.Error(err)
	}
}

// FuzzParse: the files of a tenant are whatever he likes.
func FuzzParse(f *testing.F) {
	m := testcert.New(f, testcert.Cert{Name: "a.example"})
	f.Add(m.Cert, m.Key)
	f.Add(m.Key, m.Cert)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"), []byte("-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: x\n\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		p, err := Parse(cert, key)
		if (p == nil || p.Leaf == nil || p.Key == nil) && err == nil {
			t.Fatal("neither a pair nor an error")
		}
		if err == nil {
			p.Trouble(time.Now())
			p.Names()
		}
		_, _ = Authorities(cert)
	})
}

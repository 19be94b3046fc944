// Package keypair reads a certificate and its private key as operators store
// them, PEM (RFC 7468), and says what is wrong with them in words that show
// nothing of either:
//
//	p, err := keypair.Parse(certPEM, keyPEM)
//	problem := p.Trouble(time.Now())
//
// It is for the core, which serves with them, and for liege check, and knows
// nothing of TLS itself.
package keypair

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Pair is a certificate, the chain above it, and the private key.
type Pair struct {
	Chain [][]byte // DER, the certificate itself first
	Leaf  *x509.Certificate
	Key   crypto.Signer
}

// Limits of what is looked at.
const (
	maxChain = 16   // certificates
	maxCAs   = 4096 // certificates of a file of authorities
	minRSA   = 1024 // bits: what crypto/rsa still signs with
	maxRSA   = 8192 // bits: a handshake with more is an attack on the server itself
	soon     = 14 * 24 * time.Hour
)

// Errors that callers tell from others.
var (
	ErrNoCertificate = errors.New("there is no certificate in it (-----BEGIN CERTIFICATE-----)")
	ErrNoKey         = errors.New("there is no private key in it (-----BEGIN PRIVATE KEY-----)")
	ErrEncrypted     = errors.New("the private key is encrypted, and nobody is there to type the password")
	ErrMismatch      = errors.New("the private key does not belong to the certificate")
)

// CertError is an error about the certificate's file; other errors of Parse
// are about the key's.
type CertError struct{ Err error }

func (e *CertError) Error() string { return e.Err.Error() }
func (e *CertError) Unwrap() error { return e.Err }

// Parse parses the two files, which may be one and the same.
func Parse(cert, key []byte) (*Pair, error) {
	p := &Pair{}
	for block := range blocks(cert) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if len(p.Chain) == maxChain {
			return nil, &CertError{fmt.Errorf("more than %d certificates", maxChain)}
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, &CertError{fmt.Errorf("certificate %d cannot be read: %w", len(p.Chain)+1, err)}
		}
		if p.Leaf == nil {
			p.Leaf = c
		}
		p.Chain = append(p.Chain, block.Bytes)
	}
	if p.Leaf == nil {
		return nil, &CertError{ErrNoCertificate}
	}
	var err error
	if p.Key, err = parseKey(key); err != nil {
		return nil, err
	}
	if err := p.match(); err != nil {
		return nil, err
	}
	return p, nil
}

// blocks yields the PEM blocks of text.
func blocks(text []byte) func(func(*pem.Block) bool) {
	return func(yield func(*pem.Block) bool) {
		for {
			var b *pem.Block
			if b, text = pem.Decode(text); b == nil || !yield(b) {
				return
			}
		}
	}
}

// parseKey parses the first private key of text: PKCS 8, or the older forms of
// RSA and elliptic curves.
func parseKey(text []byte) (crypto.Signer, error) {
	for b := range blocks(text) {
		var key any
		var err error
		switch b.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case "RSA PRIVATE KEY", "EC PRIVATE KEY":
			switch {
			case b.Headers["DEK-Info"] != "": // RFC 1421
				return nil, ErrEncrypted
			case b.Type == "RSA PRIVATE KEY":
				key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
			default:
				key, err = x509.ParseECPrivateKey(b.Bytes)
			}
		case "ENCRYPTED PRIVATE KEY":
			return nil, ErrEncrypted
		default:
			continue // EC PARAMETERS, certificates of a combined file
		}
		if err != nil {
			return nil, errors.New("the private key cannot be read") // the library's words may quote it
		}
		if s, ok := key.(crypto.Signer); ok {
			return s, nil
		}
		return nil, errors.New("a private key of this kind cannot sign")
	}
	return nil, ErrNoKey
}

// match checks that the halves belong together.
func (p *Pair) match() error {
	public, ok := p.Key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(p.Leaf.PublicKey) {
		return ErrMismatch
	}
	switch k := p.Key.(type) {
	case *rsa.PrivateKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return fmt.Errorf("an RSA key of %d bits; %d to %d are served with", n, minRSA, maxRSA)
		}
	case *ecdsa.PrivateKey, ed25519.PrivateKey:
	default:
		return errors.New("a private key of this kind is not served with")
	}
	return nil
}

// Trouble says what is the matter with the time that p is valid; empty:
// nothing.
func (p *Pair) Trouble(now time.Time) string {
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch c := p.Leaf; {
	case now.After(c.NotAfter):
		return "the certificate expired on " + day(c.NotAfter)
	case now.Before(c.NotBefore):
		return "the certificate is valid only from " + day(c.NotBefore)
	case c.NotAfter.Sub(now) < soon:
		return "the certificate expires on " + day(c.NotAfter)
	}
	return ""
}

// Expired reports whether p is of no more use.
func (p *Pair) Expired(now time.Time) bool { return now.After(p.Leaf.NotAfter) }

// Authorities parses a file of certificates that vouch for clients.
func Authorities(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for b := range blocks(text) {
		if b.Type != "CERTIFICATE" {
			continue
		}
		if len(out) == maxCAs {
			return nil, fmt.Errorf("more than %d certificates", maxCAs)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, ErrNoCertificate
	}
	return out, nil
}

// Names are those that the certificate is for, for people.
func (p *Pair) Names() []string {
	names := append([]string{}, p.Leaf.DNSNames...)
	for _, ip := range p.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 && p.Leaf.Subject.CommonName != "" {
		names = append(names, p.Leaf.Subject.CommonName)
	}
	return names
}

// IsCertificate reports whether an error of Parse is about the certificate's
// file; if not, it is about the key's.
func IsCertificate(err error) bool {
	_, ok := errors.AsType[*CertError](err)
	return ok
}

// Hint says what to do about an error of Parse or Authorities.
func Hint(err error) string {
	switch {
	case errors.Is(err, ErrMismatch):
		return "openssl x509 -pubkey -noout -in CERTIFICATE and openssl pkey -pubout -in KEY must print the same"
	case errors.Is(err, ErrEncrypted):
		return "openssl pkey -in KEY -out PLAIN, and chmod 600 PLAIN"
	case errors.Is(err, ErrNoCertificate), errors.Is(err, ErrNoKey):
		return "the certificate comes before the key"
	}
	return ""
}

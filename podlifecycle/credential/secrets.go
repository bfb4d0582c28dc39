package credential

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/dockerconfig"
)

// maxFile is more than a Secret can hold (1 MiB).
const maxFile = 4 << 20

// ErrType: a Secret is of no type that holds credentials of registries.
var ErrType = errors.New("is neither kubernetes.io/dockerconfigjson nor kubernetes.io/dockercfg")

// FromSecrets gives what Secrets hold for an image: those of all Secrets together
// by how specific their keys are, of equal keys by the order of the Secrets. Errors
// name the Secret and never quote it; they come joined beside what the others hold.
func FromSecrets(secrets []*corev1.Secret, image string) ([]runtimeiface.Auth, error) {
	var configs []dockerconfig.Config
	var errs []error
	for _, secret := range secrets {
		config, err := parse(secret)
		if err != nil {
			errs = append(errs, fmt.Errorf("secret %s/%s: %w", secret.Namespace, secret.Name, err))
			continue
		}
		configs = append(configs, config)
	}
	auths, err := lookup(image, configs)
	if err != nil {
		errs = append(errs, fmt.Errorf("pull secrets: %w", err))
	}
	return auths, errors.Join(errs...)
}

func parse(secret *corev1.Secret) (dockerconfig.Config, error) {
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		return dockerconfig.Parse(secret.Data[corev1.DockerConfigJsonKey])
	case corev1.SecretTypeDockercfg:
		return dockerconfig.ParseLegacy(secret.Data[corev1.DockerConfigKey])
	}
	return dockerconfig.Config{}, ErrType
}

// FromFiles gives what files in the format of docker's config.json hold for an
// image, in the order of FromSecrets. A file that is not there holds nothing.
func FromFiles(files []string, image string) ([]runtimeiface.Auth, error) {
	var configs []dockerconfig.Config
	var errs []error
	for _, file := range files {
		config, err := readFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("credentials in %s: %w", file, err))
			continue
		}
		configs = append(configs, config)
	}
	auths, err := lookup(image, configs)
	if err != nil {
		errs = append(errs, fmt.Errorf("credentials in %v: %w", files, err))
	}
	return auths, errors.Join(errs...)
}

func readFile(path string) (dockerconfig.Config, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return dockerconfig.Config{}, nil
	}
	if err != nil {
		return dockerconfig.Config{}, err
	}
	if !info.Mode().IsRegular() {
		return dockerconfig.Config{}, errors.New("no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return dockerconfig.Config{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return dockerconfig.Config{}, err
	}
	if len(data) > maxFile {
		return dockerconfig.Config{}, fmt.Errorf("more than %d bytes", maxFile)
	}
	return dockerconfig.Parse(data)
}

func lookup(image string, configs []dockerconfig.Config) ([]runtimeiface.Auth, error) {
	host, repo := dockerconfig.Split(image)
	found, err := dockerconfig.Lookup(host, repo, configs...)
	var auths []runtimeiface.Auth
	for _, a := range found {
		auths = append(auths, runtimeiface.Auth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken})
	}
	return auths, err
}

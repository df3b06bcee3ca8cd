"""The experiments of Chen, Davis and Lim on any retrieval set: which features and which regions to use for objects.

They are those of "An analysis of object embeddings for image retrieval" (2019) and of its later version, "Efficient
object embedding for spliced image retrieval" (CVPR 2021), on one set with two networks:

- Which features? The maps of a classification network are compared with those of a detection network with the same
  trunk, block by block from conv4_1 to conv5_3, in four poolings, each reduced by PCA whitening to several dimensions.
- Which regions? The whole image, the rigid grid of R-MAC, or the boxes of a detector as hard attention.

The two sides of a comparison always have the same pooling, dimension and matching (one vector per image, or the best of
several), and a whitening is fitted on the kind of regions that it is applied to.
"""

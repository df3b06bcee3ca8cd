"""The analysis of Chen, Davis and Lim on any retrieval set: what to embed objects with, and where to look.

Two questions of "An analysis of object embeddings for image retrieval" (2019) and of its later version, "Efficient
object embedding for spliced image retrieval" (CVPR 2021), are asked of one set and two networks:

- Which features? The maps of a classification network against those of a detection network with the same trunk, block
  by block from conv4_1 to conv5_3, in four poolings, each reduced by PCA whitening to several dimensions.
- Where to look? At the whole image, at the rigid grid of R-MAC, or at the boxes of a detector as hard attention.

Every comparison is one of like with like: of the same pooling and dimension, and of the same matching (one vector per
image, or the best of several); a whitening is fitted on the kind of regions that it is applied to.
"""
